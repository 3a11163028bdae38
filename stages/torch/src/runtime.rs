//! What is set once per process: threads, malloc, devices.
//!
//! One binary serves machines with and without a GPU: libtorch's CPU libraries are opened with the first model, those for CUDA when
//! a GPU is wanted. So a process without a model maps none of them, and a CPU process never those for CUDA.

use crate::LoadError;
use crate::ffi::{Functions, functions};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;

/// Threads of libtorch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threads {
    /// Within one operation; 0 stands for the number of cores that the cgroup grants.
    pub intra_op: usize,
}

/// Operations of one call at once. Models here are chains, so there is never a second one to run.
const INTER_OP: i32 = 1;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The first GPU if there is one that works, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU, or an error.
    Cuda(u8),
}

impl FromStr for Device {
    type Err = LoadError;
    fn from_str(text: &str) -> Result<Self, LoadError> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(0)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(index)),
            _ => Err(LoadError::Runtime(format!("device `{text}` is not one of auto, cpu, cuda, cuda:N"))),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Cpu => f.pad("cpu"),
            Self::Cuda(index) => f.pad(&format!("cuda:{index}")),
        }
    }
}

/// Sets the threads and answers how many an operation has. To be called once, before the first model is loaded; later calls change
/// nothing.
pub fn init(threads: Threads) -> Result<i32, LoadError> {
    static DONE: OnceLock<Result<i32, String>> = OnceLock::new();
    let intra = if threads.intra_op == 0 { cores_granted() } else { threads.intra_op };
    let intra = i32::try_from(intra).unwrap_or(i32::MAX);
    let set = || {
        let functions = functions()?;
        // SAFETY: sets two numbers; the shim catches every exception.
        let set = functions.call(|message| unsafe { (functions.set_threads)(intra, INTER_OP, message) });
        set.map_err(|e| format!("libtorch takes no threads: {e}"))
    };
    DONE.get_or_init(set).clone().map_err(LoadError::Runtime)
}

/// Cores that this process may use: the smallest of the machine, the affinity mask and the cgroup's quota (rounded down, at least 1).
pub fn cores_granted() -> usize {
    // On Linux the standard library looks at all three, for both versions of cgroups.
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// glibc maps and unmaps every large tensor on every call, and one arena per thread makes it worse: with the defaults a call takes
/// up to 2.7 times as long. To be called first in `main`, before a thread starts. Answers whether all three settings were taken.
///
/// Rust's own allocations should go to another allocator, or all threads wait for the one arena.
pub fn tune_malloc() -> bool {
    #[cfg(target_env = "gnu")]
    {
        // The largest threshold that every version of glibc takes: half of its largest heap.
        const MMAP_THRESHOLD: libc::c_int = 32 << 20;
        // Memory is kept rather than given back: the next call needs as much again.
        const TRIM_THRESHOLD: libc::c_int = libc::c_int::MAX;
        let set = |parameter, value| {
            // SAFETY: mallopt only sets a number of the allocator; it may be called at any time.
            unsafe { libc::mallopt(parameter, value) == 1 }
        };
        let largest = set(libc::M_MMAP_THRESHOLD, 1 << 30) || set(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        let trim = set(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        largest && trim && set(libc::M_ARENA_MAX, 1)
    }
    #[cfg(not(target_env = "gnu"))]
    {
        false
    }
}

/// Version of libtorch, for example `2.11.0`. Opens it.
pub fn version() -> Result<&'static str, LoadError> {
    functions().and_then(Functions::version).map_err(LoadError::Runtime)
}

/// Decides for a device that is there: never [`Device::Auto`].
pub fn resolve(device: &Device) -> Result<Device, LoadError> {
    match *device {
        Device::Cpu => Ok(Device::Cpu),
        Device::Auto if !Path::new("/dev/nvidiactl").exists() => Ok(Device::Cpu),
        Device::Auto => match cuda_devices() {
            Ok(count) if count > 0 => Ok(Device::Cuda(0)),
            Ok(_) => Ok(Device::Cpu),
            Err(reason) => {
                tracing::warn!(
                    reason,
                    "the machine has a gpu that libtorch cannot use, falling back to the cpu"
                );
                Ok(Device::Cpu)
            }
        },
        Device::Cuda(index) => {
            let count = cuda_devices()
                .map_err(|e| LoadError::Runtime(format!("device {device}: {e}; use the device `cpu`")))?;
            if i32::from(index) < count {
                return Ok(*device);
            }
            let detail =
                format!("device {device}: libtorch sees {count} GPUs; use the device `cpu` or `auto`");
            Err(LoadError::Runtime(detail))
        }
    }
}

/// How many GPUs libtorch can use, once its CUDA library is open.
fn cuda_devices() -> Result<i32, String> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    OPENED.get_or_init(open_cuda).clone()?;
    let functions = functions()?;
    // SAFETY: counts; the shim catches every exception.
    functions.call(|message| unsafe { (functions.cuda_devices)(message) })
}

/// Opens `libtorch_cuda.so` beside the libraries that are there already; it registers itself with them.
pub(crate) fn open_cuda() -> Result<(), String> {
    functions()?;
    let folder = library_folder().ok_or("the folder of libtorch_cpu.so is not known")?;
    let path = folder.join("libtorch_cuda.so");
    if !path.exists() {
        return Err(format!("{} is not there: this libtorch was built for the CPU", path.display()));
    }
    // SAFETY: the library's initialisers are those of libtorch, made to run at any time before its first use of CUDA.
    let library = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_GLOBAL) }
        .map_err(|e| format!("{} cannot be opened: {e}", path.display()))?;
    let _never_closed = library.into_raw();
    Ok(())
}

/// Whether the libraries that are open have CUDA graphs.
pub(crate) fn has_cuda_graphs() -> bool {
    // SAFETY: looks up names.
    functions().is_ok_and(|functions| unsafe { (functions.has_cuda_graphs)() })
}

/// Where the running `libtorch_cpu.so` lies.
pub fn library_folder() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.ends_with("/libtorch_cpu.so"))?;
    Path::new(&line[line.find('/')?..]).parent().map(Path::to_owned)
}
