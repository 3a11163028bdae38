//! Files of safetensors: golden vectors, and what was observed of convolutions.

use crate::LoadError;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;

/// The tensors of a file by their names.
pub(crate) type Tensors = BTreeMap<String, Tensor>;

/// One of them.
#[derive(Debug)]
pub(crate) struct Tensor {
    dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// What an element can be.
pub(crate) trait Element: Copy {
    const DTYPE: Dtype;
    fn read(bytes: &[u8]) -> Vec<Self>;
    fn write(elements: &[Self]) -> Vec<u8>;
}

macro_rules! element {
    ($($of:ty: $dtype:ident),*) => {
        $(impl Element for $of {
            const DTYPE: Dtype = Dtype::$dtype;
            fn read(bytes: &[u8]) -> Vec<Self> {
                bytes.as_chunks().0.iter().map(|bytes| Self::from_le_bytes(*bytes)).collect()
            }
            fn write(elements: &[Self]) -> Vec<u8> {
                elements.iter().flat_map(|element| element.to_le_bytes()).collect()
            }
        })*
    };
}
element!(u8: U8, f32: F32, i64: I64);

impl Tensor {
    /// A vector.
    pub(crate) fn vector<T: Element>(elements: &[T]) -> Self {
        Self { dtype: T::DTYPE, shape: vec![elements.len()], bytes: T::write(elements) }
    }

    /// Its elements, row-major. The error says which type they have.
    pub(crate) fn elements<T: Element>(&self) -> Result<Vec<T>, String> {
        match self.dtype == T::DTYPE {
            true => Ok(T::read(&self.bytes)),
            false => Err(format!("has the number type {:?}, {:?} is wanted", self.dtype, T::DTYPE)),
        }
    }
}

/// Reads a whole file.
pub(crate) fn read(path: &Path) -> Result<Tensors, LoadError> {
    let bytes = std::fs::read(path).map_err(LoadError::io(path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| LoadError::manifest(path, e))?;
    let owned = |(name, view): (String, TensorView<'_>)| {
        let tensor =
            Tensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        (name, tensor)
    };
    Ok(file.tensors().into_iter().map(owned).collect())
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, tensors: &Tensors) -> Result<(), LoadError> {
    let wrong = |e| LoadError::manifest(path, e);
    let views = tensors.iter().map(|(name, tensor)| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        view.map(|view| (name, view)).map_err(wrong)
    });
    let file = safetensors::serialize(views.collect::<Result<Vec<_>, _>>()?, None).map_err(wrong)?;
    std::fs::write(path, file).map_err(LoadError::io(path))
}
