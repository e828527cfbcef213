fn main() -> std::process::ExitCode {
    nightporter::cli::main()
}
