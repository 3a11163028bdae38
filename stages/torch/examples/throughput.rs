//! How many chunks a second a model takes.
//!
//! `throughput MODEL_DIR [--batch N] [--length T] [--seconds S] [--device D] [--threads N]` prints one JSON object. The inputs are the
//! golden examples in turn; `--callers N` calls from N threads at once, each with a model of its own; `--length` cuts or repeats padded ones to that length, 0 gives every call another one (what new shapes
//! cost). `--no-freeze`, `--no-onednn`, `--optimise`, `--profiling`, `--cuda-graphs`, `--length-step N` and `--plain-malloc` show what each idea is worth.
#![allow(clippy::print_stdout, reason = "a program for people")]

use spawn_core::{Array, ArrayData, Features, Model};
use spawn_torch::{Device, Threads, TorchModel, Tuning};
use std::time::{Duration, Instant};

struct Arguments {
    dir: String,
    batch: usize,
    length: Option<usize>,
    seconds: f64,
    device: Device,
    threads: usize,
    callers: usize,
    tuning: Tuning,
    malloc: bool,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = arguments()?;
    let malloc = arguments.malloc && spawn_torch::tune_malloc();
    spawn_torch::init(Threads { intra_op: arguments.threads })?;
    let load = || TorchModel::load_with(arguments.dir.as_ref(), &arguments.device, arguments.tuning);
    let mut models = (0..arguments.callers).map(|_| load()).collect::<Result<Vec<_>, _>>()?;
    // As in the product: a model lives on a thread of its own.
    let answers: Vec<Result<Measured, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            models.iter_mut().map(|model| scope.spawn(|| measure(model, &arguments))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err("the thread panicked".into()))).collect()
    });
    let model = &models[0];
    let mut answers = answers.into_iter();
    let (mut calls, seconds, mut slowest, first, cpu) = answers.next().ok_or("no caller")??;
    for answer in answers {
        let (more, _, slow, ..) = answer?;
        calls += more;
        slowest = slowest.max(slow);
    }
    let items = calls * arguments.batch;
    println!(
        "{}",
        serde_json::json!({
            "model": &*model.spec().id(), "device": &*model.spec().device, "batch": arguments.batch, "callers": arguments.callers, "length": arguments.length,
            "tuning": format!("{:?}", arguments.tuning), "malloc": malloc, "items": items, "seconds": seconds,
            "items_per_second": items as f64 / seconds, "cpu_seconds_per_item": cpu / items as f64, "first_call_ms": first * 1e3, "slowest_call_ms": slowest * 1e3,
            "load_seconds": model.load_seconds(), "golden_cosine_min": model.golden().cosine_min,
            "golden_abs_max": model.golden().abs_max, "device_bytes_max": model.device_bytes()[1], "libtorch": spawn_torch::version()?,
        })
    );
    Ok(())
}

/// Calls, seconds in them, the slowest, the first, CPU seconds of the process.
type Measured = (usize, f64, f64, f64, f64);

/// CPU seconds of the process so far, all threads.
fn cpu_seconds() -> f64 {
    // SAFETY: an all-zero rusage is a valid value, and getrusage writes one.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn measure(model: &mut TorchModel, arguments: &Arguments) -> Result<Measured, String> {
    let examples: Vec<Features> = model.examples().cloned().collect();
    let mut call = |number: usize| {
        let length = arguments.length.map(|l| if l == 0 { 8 + number * 37 % 240 } else { l });
        let chunks: Vec<Features> = (0..arguments.batch)
            .map(|i| &examples[i % examples.len()])
            .map(|example| length.map_or_else(|| example.clone(), |length| resize(example, length)))
            .collect();
        let chunks: Vec<&Features> = chunks.iter().collect();
        let started = Instant::now();
        model.infer(&chunks).map(|_| started.elapsed()).map_err(|fault| fault.to_string())
    };
    let first = call(0)?.as_secs_f64();
    let (mut calls, mut total, mut slowest) = (0, Duration::ZERO, Duration::ZERO);
    let cpu = cpu_seconds();
    while total.as_secs_f64() < arguments.seconds {
        calls += 1;
        let took = call(calls)?;
        total += took;
        slowest = slowest.max(took);
    }
    Ok((calls, total.as_secs_f64(), slowest.as_secs_f64(), first, cpu_seconds() - cpu))
}

/// The example with its first axis cut, or filled by starting again.
fn resize(example: &Features, length: usize) -> Features {
    let arrays = example.arrays.iter().map(|array| {
        let row: usize = array.shape.iter().skip(1).product();
        let data = match &array.data {
            ArrayData::U8(v) => ArrayData::U8(v.iter().cycle().take(length * row).copied().collect()),
            ArrayData::F32(v) => ArrayData::F32(v.iter().cycle().take(length * row).copied().collect()),
            ArrayData::I64(v) => ArrayData::I64(v.iter().cycle().take(length * row).copied().collect()),
        };
        let shape = std::iter::once(length).chain(array.shape.iter().skip(1).copied()).collect();
        Array { name: array.name, shape, data }
    });
    Features { arrays: arrays.collect() }
}

fn arguments() -> Result<Arguments, Box<dyn std::error::Error>> {
    let mut given = std::env::args().skip(1);
    let dir = given
        .next()
        .ok_or("usage: throughput MODEL_DIR [--batch N] [--length T] [--seconds S] [--device D]")?;
    let mut arguments = Arguments {
        dir,
        batch: 8,
        length: None,
        seconds: 5.0,
        device: Device::Cpu,
        threads: 0,
        callers: 1,
        tuning: Tuning::default(),
        malloc: true,
    };
    while let Some(flag) = given.next() {
        let mut value = || given.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--batch" => arguments.batch = value()?.parse()?,
            "--length" => arguments.length = Some(value()?.parse()?),
            "--seconds" => arguments.seconds = value()?.parse()?,
            "--device" => arguments.device = value()?.parse()?,
            "--threads" => arguments.threads = value()?.parse()?,
            "--callers" => arguments.callers = value()?.parse::<usize>()?.max(1),
            "--no-freeze" => arguments.tuning.freeze = false,
            "--no-onednn" => arguments.tuning.onednn = false,
            "--optimise" => arguments.tuning.optimise = true,
            "--cuda-graphs" => arguments.tuning.cuda_graphs = true,
            "--profiling" => arguments.tuning.profiling = true,
            "--length-step" => arguments.tuning.length_step = value()?.parse()?,
            "--plain-malloc" => arguments.malloc = false,
            _ => return Err(format!("unknown flag {flag}").into()),
        }
    }
    Ok(arguments)
}
