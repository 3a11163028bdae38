//! A TorchScript module, through the C++ shim.

use crate::ffi::{self, Functions, functions};
use crate::manifest::Dtype;
use crate::model::Tuning;
use spawn_core::ArrayData;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;

/// One input of a call: the arrays of all chunks, batch axis first.
#[derive(Clone, Debug)]
pub(crate) struct Batched {
    /// Extents, batch axis included.
    pub(crate) shape: Vec<i64>,
    /// As many elements as the product of `shape`.
    pub(crate) data: ArrayData,
}

/// One tensor of the answer, row-major.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

/// How a module is made ready.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options<'a> {
    /// GPU, or the CPU.
    pub(crate) cuda: Option<u8>,
    /// Number type of the computation.
    pub(crate) dtype: Dtype,
    pub(crate) tuning: Tuning,
    /// Answer what the convolutions see; see [`mod@crate::calibration`].
    pub(crate) observe: bool,
    /// What they saw, for convolutions in int8.
    pub(crate) observed: Option<&'a [f32]>,
}

/// A loaded module. Runs where it was loaded.
pub(crate) struct Module {
    raw: NonNull<ffi::Module>,
    functions: &'static Functions,
}

// SAFETY: libtorch's modules are not tied to a thread.
unsafe impl Send for Module {}
// SAFETY: nothing changes a module after loading, and `forward` of one module may run on several threads at once: its executor is
// guarded by libtorch, the weights are only read.
unsafe impl Sync for Module {}

impl Module {
    pub(crate) fn load(path: &Path, options: Options<'_>) -> Result<Self, String> {
        let functions = functions()?;
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|e| e.to_string())?;
        let options = ffi::Options {
            cuda: options.cuda.map_or(-1, i32::from),
            freeze: options.tuning.freeze,
            onednn: options.tuning.onednn,
            dtype: options.dtype as i32,
            optimise: options.tuning.optimise,
            profiling: options.tuning.profiling,
            cuda_graphs: options.tuning.cuda_graphs,
            observe: options.observe,
            observed: options.observed.map_or(std::ptr::null(), <[f32]>::as_ptr),
            observed_count: options.observed.map_or(0, <[f32]>::len),
        };
        // SAFETY: the path ends with NUL and all pointers live for the call; the shim catches every exception.
        let module =
            functions.call(|message| unsafe { (functions.module_load)(path.as_ptr(), &options, message) })?;
        NonNull::new(module).map(|raw| Self { raw, functions }).ok_or_else(|| "no module".into())
    }

    /// How many layers run by oneDNN, or in fewer bits.
    pub(crate) fn layers(&self) -> usize {
        // SAFETY: made by `module_load` and not yet freed.
        unsafe { (self.functions.module_layers)(self.raw.as_ptr()) }
    }

    /// Bytes that libtorch holds for tensors on the module's GPU, now and at most so far; 0 on the CPU.
    pub(crate) fn device_bytes(&self) -> [u64; 2] {
        let (mut now, mut most) = (0, 0);
        // SAFETY: as above; both numbers are written.
        unsafe { (self.functions.module_device_bytes)(self.raw.as_ptr(), &mut now, &mut most) };
        [now, most].map(|bytes| u64::try_from(bytes).unwrap_or(0))
    }

    /// Gives back the memory that libtorch keeps for later calls on the module's GPU.
    pub(crate) fn empty_cache(&self) {
        // SAFETY: as above.
        unsafe { (self.functions.module_empty_cache)(self.raw.as_ptr()) }
    }

    /// Runs the module. The error is libtorch's message.
    pub(crate) fn forward(&self, inputs: &[Batched]) -> Result<Vec<Output>, String> {
        let views = inputs.iter().map(Batched::view).collect::<Result<Vec<_>, _>>()?;
        // SAFETY: the views point into `inputs`, which outlive the call, and hold as many elements as their shape says.
        let outputs = self.functions.call(|message| unsafe {
            (self.functions.module_forward)(self.raw.as_ptr(), views.as_ptr(), views.len(), message)
        })?;
        let outputs = Outputs { raw: NonNull::new(outputs).ok_or("no outputs")?, functions: self.functions };
        Ok((0..outputs.count()).map(|i| outputs.get(i)).collect())
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: made by `module_load`, freed once.
        unsafe { (self.functions.module_free)(self.raw.as_ptr()) }
    }
}

impl Batched {
    fn view(&self) -> Result<ffi::Input, String> {
        let (dtype, data, count) = match &self.data {
            ArrayData::U8(v) => (0, v.as_ptr().cast(), v.len()),
            ArrayData::F32(v) => (1, v.as_ptr().cast(), v.len()),
            ArrayData::I64(v) => (2, v.as_ptr().cast(), v.len()),
        };
        let want = self.shape.iter().try_fold(1usize, |n, e| n.checked_mul(usize::try_from(*e).ok()?));
        if want != Some(count) {
            return Err(format!("an input of shape {:?} has {count} elements", self.shape));
        }
        Ok(ffi::Input { data, shape: self.shape.as_ptr(), axes: self.shape.len(), dtype })
    }
}

/// The answer of a call, until it is copied out.
struct Outputs {
    raw: NonNull<ffi::Outputs>,
    functions: &'static Functions,
}

impl Outputs {
    fn count(&self) -> usize {
        // SAFETY: made by `module_forward` and not yet freed.
        unsafe { (self.functions.outputs_count)(self.raw.as_ptr()) }
    }

    fn get(&self, index: usize) -> Output {
        let mut output = ffi::Output { data: std::ptr::null(), shape: std::ptr::null(), axes: 0 };
        // SAFETY: as above; `output` is written only when the index is below the count.
        let there = unsafe { (self.functions.outputs_get)(self.raw.as_ptr(), index, &mut output) };
        if !there || output.axes == 0 || output.data.is_null() {
            return Output { shape: Vec::new(), data: Vec::new() };
        }
        // SAFETY: the shape has `axes` elements, the data as many as their product, both valid until `self` is dropped.
        unsafe {
            let shape = std::slice::from_raw_parts(output.shape, output.axes);
            let shape: Vec<usize> = shape.iter().map(|e| usize::try_from(*e).unwrap_or(0)).collect();
            let data = std::slice::from_raw_parts(output.data, shape.iter().product());
            Output { shape, data: data.to_vec() }
        }
    }
}

impl Drop for Outputs {
    fn drop(&mut self) {
        // SAFETY: made by `module_forward`, freed once.
        unsafe { (self.functions.outputs_free)(self.raw.as_ptr()) }
    }
}
