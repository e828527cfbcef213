//! The processes of a run: each server and the load generator run in their own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Scheduler ticks per second in `/proc`, the same on every Linux in use.
const TICKS: u64 = 100;

/// A child process that exchanges lines with this one; it is killed when dropped.
pub struct Process {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Starts another part of this program.
    pub fn part(name: &str, argument: &Path) -> Self {
        Self::start(&mut Self::part_command(name, argument))
    }

    pub fn part_command(name: &str, argument: &Path) -> Command {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["part", name]).arg(argument);
        command
    }

    /// Starts the nightporter binary.
    pub fn nightporter(config: &Path) -> Self {
        Self::start(&mut Self::nightporter_command(config))
    }

    pub fn nightporter_command(config: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nightporter"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NIGHTPORTER_") {
                command.env_remove(name);
            }
        }
        // The log would only contain errors about being killed.
        command.arg("--config").arg(config).stderr(Stdio::null());
        command
    }

    /// Starts a program and counts its instructions; the count is written to `log` when it
    /// ends.
    pub fn under_callgrind(program: &Command, log: &Path) -> Self {
        let mut command = Command::new("valgrind");
        command
            .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
            .arg(format!("--log-file={}", log.display()))
            .arg(program.get_program())
            .args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Self::start(command.stderr(Stdio::null()))
    }

    /// Terminates the process and waits until it has ended.
    pub fn end(mut self) {
        let id = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let id = id.expect("a process");
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends");
    }

    pub fn write_line(&mut self, line: &str) {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("a listener");
    }

    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        let read = self.output.read_line(&mut line).expect("text");
        assert!(read > 0, "a part of the benchmark ended early");
        line
    }

    /// Reads the next line and returns the address at its end.
    pub fn address(&mut self) -> SocketAddr {
        let line = self.read_line();
        let address = line.split_whitespace().next_back().and_then(|word| word.parse().ok());
        address.unwrap_or_else(|| panic!("{line:?} does not end with an address"))
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).expect("it runs")
    }

    /// Returns the processor time used so far by all threads in user space and kernel, in
    /// microseconds.
    pub fn cpu(&self) -> u64 {
        processor_time(&self.proc("stat"))
    }

    /// Returns the same of the threads whose names begin with `name`.
    pub fn cpu_of(&self, name: &str) -> u64 {
        let tasks = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(tasks).expect("it runs").filter_map(Result::ok);
        // A thread may end at any time.
        let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
        let is_of =
            |stat: &String| stat.split_once('(').is_some_and(|(_, named)| named.starts_with(name));
        stats.filter(is_of).map(|stat| processor_time(&stat)).sum()
    }

    /// Returns the resident memory in KiB.
    pub fn resident(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Returns the part of the resident memory that is the program's own file and the
    /// libraries', in KiB; the kernel can drop it at any time.
    pub fn resident_files(&self) -> u64 {
        self.status("RssFile:")
    }

    fn status(&self, name: &str) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it runs");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

/// Reads the processor time from `/proc/…/stat`, in microseconds.
fn processor_time(stat: &str) -> u64 {
    // The name in parentheses may contain any character; utime is the 14th field.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    ticks * 1_000_000 / TICKS
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
