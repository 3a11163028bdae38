//! The binary: settings that must be made before anything else runs, then the library.

use mimalloc::MiMalloc;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

// Rust's own allocations stay out of glibc's single arena, which libtorch needs for itself (see ARCHITECTURE.md, "Memory").
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    spawn_torch::tune_malloc();
    restart_with_passive_openmp();
    spawn_app::main(std::env::args_os())
}

/// OpenMP reads its wait policy when its library is loaded, before `main`: setting it here has no effect, so the process starts itself
/// once more. Spinning threads would take the CPU crew's cores (measured: half of the images/s).
fn restart_with_passive_openmp() {
    if std::env::var_os("OMP_WAIT_POLICY").is_some() {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    // Only returns where the start failed; running without the policy is slower but right.
    let _error =
        Command::new(program).args(std::env::args_os().skip(1)).env("OMP_WAIT_POLICY", "PASSIVE").exec();
}
