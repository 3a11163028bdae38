//! Logs and the metrics recorder of this process.

use crate::config::Log;
use crate::exit::{Code, OrExit, Outcome};
use anyhow::anyhow;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::OnceLock;
use tracing_subscriber::EnvFilter;

/// Seconds: from a tenth of a millisecond (a write of one row) to a minute (a model's first call).
const SECONDS: [f64; 15] =
    [0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];
/// Records of a commit unit.
const ITEMS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];
/// Shares of one.
const RATIOS: [f64; 9] = [0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0];

/// Histograms and their buckets. One that is missing here would become a summary, which cannot be added up over workers.
pub const HISTOGRAMS: [(&str, &[f64]); 6] = [
    ("spawn_stage_duration_seconds", &SECONDS),
    ("spawn_item_end_to_end_seconds", &SECONDS),
    ("spawn_inference_seconds", &SECONDS),
    ("spawn_http_request_duration_seconds", &SECONDS),
    ("spawn_batch_items", &ITEMS),
    ("spawn_batch_padding_ratio", &RATIOS),
];

/// Starts logging to stderr. Later calls change nothing.
pub fn init_log(log: &Log, quiet: bool) -> Outcome {
    let filter = if quiet { "warn" } else { &log.filter };
    let filter = EnvFilter::try_new(filter).map_err(|e| anyhow!("log.filter: {e}")).or_exit(Code::Config)?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Already set: a second start in one process, as in tests.
    let _already_set = match log.format.as_str() {
        "json" => builder.json().try_init(),
        _ => builder
            .with_ansi(
                std::env::var_os("NO_COLOR").is_none()
                    && std::io::IsTerminal::is_terminal(&std::io::stderr()),
            )
            .try_init(),
    };
    Ok(())
}

/// The process's recorder; installed on first use.
pub fn recorder() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let builder = HISTOGRAMS.iter().fold(PrometheusBuilder::new(), |builder, (name, buckets)| {
            builder
                .set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
                .expect("buckets are not empty. This is a bug.")
        });
        let handle = builder.install_recorder().expect("nobody else installs a recorder. This is a bug.");
        gauge!("spawn_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        handle
    })
}

/// The text for `/metrics`, with the process's own figures.
pub fn render() -> String {
    process();
    recorder().run_upkeep();
    recorder().render()
}

/// A model that this process has loaded.
pub(crate) fn model(spec: &spawn_core::ModelSpec) {
    gauge!("spawn_model_info", "model" => spec.id().to_string(), "device" => spec.device.to_string(), "dtype" => spec.dtype.to_string())
        .set(1.0);
}

/// A dead letter arrived in its topic.
pub(crate) fn letter_published(source_topic: &str) {
    counter!("spawn_dlq_published_total", "topic" => source_topic.to_owned()).increment(1);
}

/// Dead letters that are in no topic yet, as the worker that publishes them sees it.
pub(crate) fn letters_waiting(records: i64) {
    gauge!("spawn_dlq_waiting_records").set(records as f64);
}

/// Memory and CPU of this process under the names that Prometheus clients use.
fn process() {
    gauge!("process_resident_memory_bytes").set(resident_bytes("VmRSS:") as f64);
    counter!("process_cpu_seconds_total").absolute(spawn_engine::meter::process_cpu().as_secs());
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    gauge!("process_open_fds").set(open as f64);
}

/// The most memory this process ever had, in bytes.
pub fn peak_rss_bytes() -> u64 {
    resident_bytes("VmHWM:")
}

fn resident_bytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|value| value.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
