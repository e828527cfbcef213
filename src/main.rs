/// The system's allocator keeps what a burst of connections took. This one has threads
/// that give it back within ten seconds, whether or not anybody asks for more.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    nightporter::cli::main()
}
