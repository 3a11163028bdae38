//! `native/module.h`, line by line, and the library that has it.
//!
//! The library is a part of the program's file. It is opened from memory when the first model wants it, which maps libtorch and
//! runs its initialisers; a command without a model pays for neither.

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
use std::ffi::{CStr, c_char, c_void};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::OnceLock;

static LIBRARY: &[u8] = include_bytes!(env!("SPAWN_TORCH_LIBRARY"));

/// Opens the library, once; later calls answer the same.
pub(crate) fn functions() -> Result<&'static Functions, String> {
    static OPENED: OnceLock<Result<&'static Functions, String>> = OnceLock::new();
    OPENED.get_or_init(open).clone()
}

fn open() -> Result<&'static Functions, String> {
    let file = in_memory().map_err(|e| format!("no memory file for the library beside libtorch: {e}"))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: its initialisers, and those of libtorch, are made to run at any time before the first use.
    // Lazy: of libtorch's own functions few are ever called. The library itself is bound at once.
    let library = unsafe { Library::open(Some(path), RTLD_LAZY | RTLD_LOCAL) }.map_err(|e| {
        format!(
            "libtorch cannot be opened: {e}; it is looked for in {} and LD_LIBRARY_PATH",
            env!("SPAWN_LIBTORCH")
        )
    })?;
    // SAFETY: `native/module.h` says that this is its type.
    let table = *unsafe { library.get::<*const Functions>(b"spawn_torch\0") }.map_err(|e| e.to_string())?;
    let _never_closed = library.into_raw();
    // SAFETY: a constant of the library.
    let functions = unsafe { table.as_ref() }.ok_or("the library beside libtorch is empty")?;
    functions.version()?;
    Ok(functions)
}

/// A file without a name that holds the library.
fn in_memory() -> std::io::Result<File> {
    // Nobody executes it as a program; kernels before 6.3 do not know how to be told so, some later ones insist.
    let flags = [libc::MFD_CLOEXEC | libc::MFD_NOEXEC_SEAL, libc::MFD_CLOEXEC];
    // SAFETY: the name ends with NUL.
    let create = |flags| unsafe { libc::memfd_create(c"libspawn_torch.so".as_ptr(), flags) };
    let Some(descriptor) = flags.into_iter().map(create).find(|descriptor| *descriptor >= 0) else {
        return Err(std::io::Error::last_os_error());
    };
    // SAFETY: just opened, and nobody else's.
    let mut file = unsafe { File::from_raw_fd(descriptor) };
    file.write_all(LIBRARY)?;
    Ok(file)
}

impl Functions {
    /// Version of libtorch; the error says that it is not the one that the library was built for.
    pub(crate) fn version(&self) -> Result<&'static str, String> {
        // SAFETY: the shim catches every exception.
        let version = self.call(|message| unsafe { (self.version)(message) })?;
        // SAFETY: without a message it is a constant string that ends with NUL.
        Ok(unsafe { CStr::from_ptr(version) }.to_str().unwrap_or("unknown"))
    }

    /// Makes a call that may leave a message, which is the error.
    pub(crate) fn call<T>(&self, call: impl FnOnce(*mut *mut c_char) -> T) -> Result<T, String> {
        let mut message: *mut c_char = std::ptr::null_mut();
        let answer = call(&mut message);
        if message.is_null() {
            return Ok(answer);
        }
        // SAFETY: the shim leaves null or a string of its own that ends with NUL and is given back once.
        unsafe {
            let text = CStr::from_ptr(message).to_string_lossy().into_owned();
            (self.message_free)(message);
            Err(text)
        }
    }
}

#[repr(C)]
pub(crate) struct Module {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct Outputs {
    _opaque: [u8; 0],
}

#[repr(C)]
pub(crate) struct Input {
    pub(crate) data: *const c_void,
    pub(crate) shape: *const i64,
    pub(crate) axes: usize,
    pub(crate) dtype: i32,
}

#[repr(C)]
pub(crate) struct Output {
    pub(crate) data: *const f32,
    pub(crate) shape: *const i64,
    pub(crate) axes: usize,
}

#[repr(C)]
pub(crate) struct Options {
    pub(crate) cuda: i32,
    pub(crate) freeze: bool,
    pub(crate) onednn: bool,
    pub(crate) dtype: i32,
    pub(crate) optimise: bool,
    pub(crate) profiling: bool,
    pub(crate) cuda_graphs: bool,
    pub(crate) observe: bool,
    pub(crate) observed: *const f32,
    pub(crate) observed_count: usize,
}

/// SAFETY of all calls: pointers are valid for the call, and what `module_load` and `module_forward` answered is freed once.
#[repr(C)]
pub(crate) struct Functions {
    pub(crate) module_load:
        unsafe extern "C" fn(*const c_char, *const Options, message: *mut *mut c_char) -> *mut Module,
    pub(crate) module_layers: unsafe extern "C" fn(*const Module) -> usize,
    pub(crate) module_device_bytes: unsafe extern "C" fn(*const Module, now: *mut i64, most: *mut i64),
    pub(crate) module_empty_cache: unsafe extern "C" fn(*const Module),
    pub(crate) module_free: unsafe extern "C" fn(*mut Module),
    pub(crate) module_forward:
        unsafe extern "C" fn(*mut Module, *const Input, usize, message: *mut *mut c_char) -> *mut Outputs,
    pub(crate) outputs_count: unsafe extern "C" fn(*const Outputs) -> usize,
    pub(crate) outputs_get: unsafe extern "C" fn(*const Outputs, usize, *mut Output) -> bool,
    pub(crate) outputs_free: unsafe extern "C" fn(*mut Outputs),
    pub(crate) message_free: unsafe extern "C" fn(*mut c_char),
    version: unsafe extern "C" fn(message: *mut *mut c_char) -> *const c_char,
    pub(crate) has_cuda_graphs: unsafe extern "C" fn() -> bool,
    pub(crate) cuda_devices: unsafe extern "C" fn(message: *mut *mut c_char) -> i32,
    pub(crate) set_threads: unsafe extern "C" fn(intra: i32, inter: i32, message: *mut *mut c_char) -> i32,
}
