//! Chunks become one padded batch: each element is copied once, into buffers that stay from call to call.

use crate::manifest::{Input, InputType};
use crate::module::Batched;
use spawn_core::{Array, ArrayData, Features};

/// Makes batches for one model.
#[derive(Clone, Debug)]
pub(crate) struct Assembler {
    inputs: Vec<Input>,
    length_step: usize,
    batch: Vec<Batched>,
}

impl Assembler {
    /// `length_step`: see [`crate::model::Tuning::length_step`].
    pub(crate) fn new(inputs: Vec<Input>, length_step: usize) -> Self {
        let empty = |input: &Input| match input.dtype {
            InputType::U8 => ArrayData::U8(Vec::new()),
            InputType::F32 => ArrayData::F32(Vec::new()),
            InputType::I64 => ArrayData::I64(Vec::new()),
        };
        let batch = inputs.iter().map(|i| Batched { shape: Vec::new(), data: empty(i) }).collect();
        Self { inputs, length_step: length_step.max(1), batch }
    }

    /// One array for each of the module's arguments. Chunks are padded to the longest of them, and to `length_min`.
    pub(crate) fn assemble(&mut self, chunks: &[&Features], length_min: usize) -> Result<&[Batched], String> {
        for (index, (input, into)) in self.inputs.iter().zip(&mut self.batch).enumerate() {
            let arrays: Vec<&Array> =
                chunks.iter().map(|chunk| array(chunk, index, input)).collect::<Result<_, _>>()?;
            let longest = arrays.iter().filter_map(|a| a.shape.first()).max().copied().unwrap_or(0);
            let length = longest.max(length_min).next_multiple_of(self.length_step);
            into.shape.clear();
            into.shape.push(arrays.len() as i64);
            into.shape.extend(input.shape.iter().map(|e| if *e < 0 { length as i64 } else { *e }));
            let each: i64 = into.shape[1..].iter().product();
            fill(&mut into.data, &arrays, each as usize, input)?;
        }
        Ok(&self.batch)
    }
}

/// The chunk's array for this input, if it is what the manifest says.
fn array<'a>(chunk: &'a Features, index: usize, input: &Input) -> Result<&'a Array, String> {
    let Some(array) = chunk.arrays.get(index).filter(|array| array.name == input.name) else {
        let names: Vec<_> = chunk.arrays.iter().map(|array| array.name).collect();
        return Err(format!(
            "the stage makes {names:?}, where the model wants `{}` at place {index}",
            input.name
        ));
    };
    let elements = match &array.data {
        ArrayData::U8(data) => data.len(),
        ArrayData::F32(data) => data.len(),
        ArrayData::I64(data) => data.len(),
    };
    let fits = |(have, want): (&usize, &i64)| *want < 0 || usize::try_from(*want) == Ok(*have);
    if array.shape.len() != input.shape.len() || !array.shape.iter().zip(&input.shape).all(fits) {
        let (name, have, want) = (&input.name, &array.shape, &input.shape);
        return Err(format!("`{name}` has the shape {have:?}, the model wants {want:?}"));
    }
    if elements != array.shape.iter().product::<usize>() {
        return Err(format!("`{}` has {elements} elements in the shape {:?}", input.name, array.shape));
    }
    Ok(array)
}

/// Puts the arrays one behind the other. Only a first axis is padded, so an array and then its padding lie in one piece.
fn fill(into: &mut ArrayData, arrays: &[&Array], each: usize, input: &Input) -> Result<(), String> {
    fn append<T: Copy>(into: &mut Vec<T>, from: &[T], each: usize, pad: T) {
        let end = into.len() + each;
        into.extend_from_slice(from);
        into.resize(end, pad);
    }
    match into {
        ArrayData::U8(into) => into.clear(),
        ArrayData::F32(into) => into.clear(),
        ArrayData::I64(into) => into.clear(),
    }
    for array in arrays {
        match (&mut *into, &array.data) {
            (ArrayData::U8(into), ArrayData::U8(from)) => append(into, from, each, input.pad as u8),
            (ArrayData::F32(into), ArrayData::F32(from)) => append(into, from, each, input.pad as f32),
            (ArrayData::I64(into), ArrayData::I64(from)) => append(into, from, each, input.pad as i64),
            _ => return Err(format!("`{}` has another number type than {:?}", input.name, input.dtype)),
        }
    }
    Ok(())
}
