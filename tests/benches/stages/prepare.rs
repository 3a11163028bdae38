//! Real files of each format through the stage that its model has: header check, decoding, preparation.

use crate::{allocations, folder};
use criterion::{Criterion, Throughput};
use spawn_audio::AudioStage;
use spawn_core::{Media, Stage};
use spawn_image::ImageStage;
use spawn_text::TextStage;
use spawn_torch::Manifest;
use std::path::{Path, PathBuf};

const BYTES_MAX: usize = 1 << 30;

pub(crate) fn bench(criterion: &mut Criterion) {
    let models = folder("SPAWN_MODELS");
    let manifest = |model: &str| Manifest::read(&models.join(model)).expect("a model folder");
    let limits = spawn_image::Limits { bytes_max: BYTES_MAX, pixels_max: 1 << 30 };
    let config = manifest("efficientnet-lite0").preparation().expect("a preparation");
    let stage = ImageStage::new(config, limits).expect("a stage");
    suite(criterion, "image", &stage, &["jpg", "png", "gif"], samples);

    let limits = spawn_audio::Limits { bytes_max: BYTES_MAX, seconds_max: 86_400.0 };
    let config = manifest("resemblyzer").preparation().expect("a preparation");
    let stage = AudioStage::new(config, limits).expect("a stage");
    suite(criterion, "audio", &stage, &["wav"], samples);
    suite(criterion, "codec", &stage, &["flac", "mp3", "m4a", "ogg"], fixtures);

    let limits = spawn_text::Limits { bytes_max: BYTES_MAX, tokens_max: 1 << 20 };
    let config = manifest("minilm-l6").preparation().expect("a preparation");
    let tokenizer = models.join("minilm-l6").join("tokenizer.json");
    let stage = TextStage::new(config, limits, &tokenizer).expect("a stage");
    suite(criterion, "text", &stage, &["txt"], samples);
}

/// The smallest, the middle and the largest sample of each format that there is.
fn suite(
    criterion: &mut Criterion,
    modality: &str,
    stage: &dyn Stage,
    formats: &[&str],
    find: fn(&str, &str) -> Vec<PathBuf>,
) {
    let mut group = criterion.benchmark_group(modality);
    for format in formats {
        let files = find(modality, format);
        let mut chosen: Vec<(&str, &PathBuf)> = Vec::new();
        for (size, at) in
            [("small", 0), ("middle", files.len() / 2), ("large", files.len().saturating_sub(1))]
        {
            if let Some(file) = files.get(at)
                && !chosen.iter().any(|(_, there)| *there == file)
            {
                chosen.push((size, file));
            }
        }
        for (size, file) in chosen {
            let bytes = std::fs::read(file).expect("a sample");
            let length = bytes.len() as u64;
            let media = Media::new(bytes.into(), None);
            let mut stage = stage.fork();
            let mut run =
                || drop(std::hint::black_box(stage.check_and_process(&media).expect("a good sample")));
            let name = format!("{format}-{size}");
            allocations::tell(&format!("{modality}/{name}"), 1, length, &mut run);
            group.throughput(Throughput::Bytes(length));
            group.bench_function(&name, |bencher| bencher.iter(&mut run));
        }
    }
    group.finish();
}

/// The audio stage's own: a third of a second each. The samples of the demo are nearly all WAV.
fn fixtures(_: &str, format: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../stages/audio/tests/fixtures");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the fixtures")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|e| e == format))
        .collect();
    files.sort_by_key(|path| std::fs::metadata(path).map_or(0, |found| found.len()));
    files
}

/// Good samples of a format, smallest first.
fn samples(modality: &str, format: &str) -> Vec<PathBuf> {
    let data = folder("SPAWN_DATA");
    let index = std::fs::read_to_string(data.join("index.csv")).expect("the index of the samples");
    let of_modality = index.lines().filter_map(|line| {
        let mut fields = line.split(',');
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == modality && !path.contains("broken")).then(|| data.join(path))
    });
    let is_format = |path: &Path| path.extension().is_some_and(|e| e.eq_ignore_ascii_case(format));
    let mut files: Vec<PathBuf> = of_modality.filter(|path| is_format(path)).collect();
    files.sort_by_key(|path| std::fs::metadata(path).map_or(0, |found| found.len()));
    files
}
