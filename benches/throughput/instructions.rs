//! Instructions per request in user space, counted by Valgrind's callgrind: a figure that
//! does not depend on other load on the machine.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::footprint::float;
use crate::load::{AUTH, Requests, Settings, Slice};
use crate::process::Process;
use crate::sample::SampleBox;
use crate::{Scenario, ask, bare, first_answer, start_load, write_settings};

/// The numbers of requests in the two runs whose difference is reported: both include the
/// cost of the start.
const FEW: usize = 1_000;
const MANY: usize = 3_000;

/// The number of concurrent requests. With more than one, how many are answered between two
/// waits for events depends on timing, and the count varies by a tenth.
const CONCURRENCY: usize = 1;

pub fn print(sample: &SampleBox, scenarios: &[&Scenario]) {
    if Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("instructions: not counted, since valgrind is not installed");
        return;
    }
    println!("\ninstructions per request in user space (callgrind)");
    for scenario in scenarios {
        let config = sample.config("");
        let mut server = Process::nightporter(&config);
        let answer = first_answer(server.address(), &scenario.requests[0]);
        drop(server);
        let bare_settings = sample.path().join("bare.json");
        write_settings(&bare_settings, &bare::Settings { answer: answer.clone(), tls: None });
        let settings = Settings {
            transport: scenario.transport,
            concurrency: CONCURRENCY,
            path: AUTH.to_owned(),
            requests: Requests::Listed(scenario.requests.clone()),
            status: answer.status,
            body: answer.body.clone(),
            certificate: None,
        };
        let mut load = start_load(sample, "load.json", &settings);
        let log = sample.path().join("callgrind.log");
        let mut counted = |server: &Command, most: usize| {
            let mut server = Process::under_callgrind(server, &log);
            let target = server.address();
            first_answer(target, &scenario.requests[0]);
            ask(&mut load, Slice { target, longest: std::time::Duration::MAX, most });
            server.end();
            collected(&log)
        };
        let servers =
            [Process::part_command("bare", &bare_settings), Process::nightporter_command(&config)];
        let [bare, ours] = servers.map(|server| {
            let more = counted(&server, MANY) - counted(&server, FEW);
            float(more) / float((MANY - FEW) as u64)
        });
        println!(
            "  {:<24} bare {bare:>8.0}  nightporter {ours:>8.0}  ratio {:.3}",
            scenario.name,
            ours / bare
        );
    }
}

/// Returns the count at the end of callgrind's log.
fn collected(log: &Path) -> u64 {
    let text = std::fs::read_to_string(log).expect("callgrind's log");
    let count = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, count) = count.unwrap_or_else(|| panic!("callgrind counted nothing: {text}"));
    count.trim().parse().expect("a number")
}
