//! What the order of chunks within a commit unit is worth: texts of mixed lengths through the model, in units of so many records.
//!
//! `batching MODEL_DIR LIST ORDER UNIT`: LIST is a file with a path a line, ORDER is `planned` (as the line does) or `arrival` (calls of the
//! same limits in the order of arrival). Prints one JSON object: records a second, and the 95th percentile of the time from a unit's
//! start to its end, which all of its records take.

#![allow(clippy::print_stdout, reason = "its output is for standard output")]

use spawn_core::{Features, Media, Model, ModelSpec};
use spawn_text::{Limits, TextStage};
use spawn_torch::{Device, Threads, TorchModel};
use std::path::Path;
use std::time::Instant;

// As `spawn` has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    spawn_torch::tune_malloc();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, list, order, unit] = &arguments[..] else {
        return Err("batching MODEL_DIR LIST planned|arrival UNIT".into());
    };
    let (folder, unit): (&Path, usize) = (folder.as_ref(), unit.parse()?);
    spawn_torch::init(Threads { intra_op: 1 })?;
    let mut model = TorchModel::load(folder, &Device::Cpu)?;
    let records = records(&model, folder, list)?;
    let spec = model.spec().clone();
    let cut: fn(&[usize], &ModelSpec) -> Vec<Vec<usize>> = match order.as_str() {
        "planned" => spawn_engine::infer::plan,
        "arrival" => in_order,
        _ => return Err(format!("order {order}").into()),
    };
    let (mut took, mut calls, mut padded, mut sum, mut chunks_before) = (Vec::new(), 0, 0, 0.0, 0);
    let started = Instant::now();
    for unit in records.chunks(unit) {
        let begun = Instant::now();
        let chunks: Vec<&Features> = unit.iter().flatten().collect();
        let lengths: Vec<usize> = chunks.iter().map(|chunk| chunk.length()).collect();
        let before = chunks_before;
        chunks_before += chunks.len();
        for call in cut(&lengths, &spec) {
            let inputs: Vec<&Features> = call.iter().map(|i| chunks[*i]).collect();
            let answers = model.infer(&inputs).map_err(|fault| fault.to_string())?;
            // What the two sides are compared by, in whatever order they call: a vector that went to another chunk weighs something else there.
            for (i, answer) in call.iter().zip(&answers) {
                let elements = answer.embedding.iter().flat_map(|e| e.as_slice());
                let of_elements: f64 = elements.enumerate().map(|(at, e)| weight(at) * f64::from(*e)).sum();
                sum += weight(before + i) * of_elements;
            }
            calls += 1;
            padded += call.len() * call.iter().map(|i| lengths[*i]).max().unwrap_or(0);
        }
        took.push(begun.elapsed().as_secs_f64());
    }
    let seconds = started.elapsed().as_secs_f64();
    let slowest = took.iter().copied().fold(0.0, f64::max);
    let useful: usize = records.iter().flatten().map(Features::length).sum();
    println!(
        "{}",
        serde_json::json!({
            "records": records.len(), "chunks": records.iter().map(Vec::len).sum::<usize>(), "calls": calls, "seconds": seconds,
            "items_per_second": records.len() as f64 / seconds, "slowest_seconds": slowest, "padding_ratio": 1.0 - useful as f64 / padded as f64,
            "sum": sum, "golden_cosine_min": model.golden().cosine_min, "libtorch": spawn_torch::version()?,
        })
    );
    Ok(())
}

/// Between 0 and 1, another one for each number below 65,536.
fn weight(number: usize) -> f64 {
    f64::from((number as u16).wrapping_mul(40_503)) / f64::from(u16::MAX)
}

/// The chunks of each text.
fn records(
    model: &TorchModel,
    folder: &Path,
    list: &str,
) -> Result<Vec<Vec<Features>>, Box<dyn std::error::Error>> {
    let limits = Limits { bytes_max: 1 << 30, tokens_max: 1 << 20 };
    let config = model.manifest().preparation()?;
    let mut stage: Box<dyn spawn_core::Stage> =
        Box::new(TextStage::new(config, limits, &folder.join("tokenizer.json"))?);
    let mut records = Vec::new();
    for path in std::fs::read_to_string(list)?.lines() {
        let media = Media::new(std::fs::read(path)?.into(), None);
        let prepared = stage.check_and_process(&media).map_err(|r| format!("{path}: {}", r.detail))?;
        records.push(prepared.chunks);
    }
    Ok(records)
}

/// Calls as large as the limits allow, in the order of arrival.
fn in_order(lengths: &[usize], spec: &ModelSpec) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut longest = 0;
    for (i, length) in lengths.iter().enumerate() {
        match calls.last_mut() {
            Some(call) if spec.fits(call.len() + 1, longest.max(*length)) => {
                longest = longest.max(*length);
                call.push(i);
            }
            _ => {
                longest = *length;
                calls.push(vec![i]);
            }
        }
    }
    calls
}
