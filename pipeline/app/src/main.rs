//! The binary: the allocators and OpenMP's policy, which must be set before anything else runs, then the library.

use mimalloc::MiMalloc;
use std::io::Write;

// Rust's own allocations stay out of glibc's single arena, which libtorch needs for itself (see ARCHITECTURE.md, "Memory").
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() {
    spawn_torch::tune_malloc();
    passive_openmp();
    let code = spawn_app::main(std::env::args_os());
    // Nothing is left to do where even this cannot be written.
    let _written = std::io::stdout().flush();
    // A model call may be under way still, and libtorch's destructors would take away what it works with.
    spawn_app::exit::leave(code)
}

/// Helpers of OpenMP sleep between calls instead of spinning on the crew's cores (measured: half of the images/s), unless
/// `OMP_WAIT_POLICY` says otherwise. Its library reads that when it is opened with libtorch.
fn passive_openmp() {
    const POLICY: &str = "OMP_WAIT_POLICY";
    if std::env::var_os(POLICY).is_none() {
        // SAFETY: there is no other thread yet that could read the environment.
        unsafe { std::env::set_var(POLICY, "PASSIVE") }
    }
}
