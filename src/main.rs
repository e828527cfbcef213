/// The system's allocator keeps the memory of a burst of connections. jemalloc has threads
/// that give it back within ten seconds, whether or not more is allocated.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    nightporter::cli::main()
}
