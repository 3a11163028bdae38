//! Model calls by size of the batch, on all cores that the process was granted.

use crate::folder;
use criterion::{Criterion, Throughput};
use spawn_core::{Features, Model};
use spawn_torch::{Device, Threads, TorchModel, cores_granted};

pub(crate) fn bench(criterion: &mut Criterion) {
    spawn_torch::init(Threads { intra_op: cores_granted() }).expect("libtorch starts");
    let mut group = criterion.benchmark_group("infer");
    for name in ["efficientnet-lite0", "minilm-l6", "resemblyzer"] {
        let mut model =
            TorchModel::load(&folder("SPAWN_MODELS").join(name), &Device::Cpu).expect("a proved model");
        let examples: Vec<Features> = model.examples().cloned().collect();
        for batch in [1, 8, 32] {
            let chunks: Vec<&Features> = examples.iter().cycle().take(batch).collect();
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(format!("{name}-{batch}"), |bencher| {
                bencher.iter(|| model.infer(&chunks).expect("vectors"));
            });
        }
    }
    group.finish();
}
