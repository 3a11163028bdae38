//! The binary: the allocators and OpenMP's policy, which must be set before anything else runs, then the library.

use mimalloc::MiMalloc;
use std::process::ExitCode;

// Rust's own allocations stay out of glibc's single arena, which libtorch needs for itself (see ARCHITECTURE.md, "Memory").
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    spawn_torch::tune_malloc();
    spawn_torch::passive_openmp();
    spawn_app::main(std::env::args_os())
}
