//! `spawn doctor`: this machine.

use super::check::Findings;
use crate::config::Settings;
use crate::exit::Outcome;
use crate::output::Output;

/// The libtorch that this program was made for.
const LIBTORCH_WANTED: &str = "2.11";

pub(super) fn run(settings: Settings, out: Output) -> Outcome {
    let mut findings = Findings::default();
    match spawn_torch::version() {
        Ok(version) if version.starts_with(LIBTORCH_WANTED) => {
            findings.well("libtorch", "opened library", version.to_owned());
        }
        other => findings.wrong(
            "libtorch",
            "opened library",
            other.map_or_else(|e| e.to_string(), str::to_owned),
            LIBTORCH_WANTED,
            "pip install torch==2.11.0, or set LIBTORCH, and build again",
        ),
    }
    findings.well("cores", "cgroup", format!("{} granted", spawn_torch::cores_granted()));
    for name in settings.models.device.split(',').map(str::trim) {
        match name.parse::<spawn_torch::Device>().and_then(|device| spawn_torch::runtime::resolve(&device)) {
            Ok(device) => findings.well("device", "models.device", device.to_string()),
            Err(error) => {
                let remedy = "set models.device = \"cpu\"";
                findings.wrong(
                    "device",
                    "models.device",
                    error,
                    "auto, cpu, cuda:N or several of them",
                    remedy,
                );
            }
        }
    }
    let policy = std::env::var("OMP_WAIT_POLICY").unwrap_or_else(|_| "unset".into());
    match policy.eq_ignore_ascii_case("passive") {
        true => findings.well("openmp", "OMP_WAIT_POLICY", policy),
        false => {
            findings.wrong("openmp", "OMP_WAIT_POLICY", policy, "PASSIVE", "unset it: spawn sets it itself")
        }
    }
    let wanted = settings.memory.raw_bytes + settings.memory.decoded_bytes;
    let granted = memory_granted();
    match granted > wanted as u64 * 2 {
        true => findings.well(
            "memory",
            "cgroup",
            format!("{} MiB granted, {} MiB budgeted", granted >> 20, wanted >> 20),
        ),
        false => findings.wrong(
            "memory",
            "cgroup",
            format!("{} MiB granted", granted >> 20),
            "twice memory.raw_bytes + memory.decoded_bytes",
            "lower the budgets or grant more",
        ),
    }
    match settings.models.dir.is_dir() {
        true => findings.well("models", &settings.models.dir.display().to_string(), "there".into()),
        false => findings.wrong(
            "models",
            &settings.models.dir.display().to_string(),
            "missing",
            "a folder",
            "run `setup/install models`",
        ),
    }
    findings.report("doctor", out)
}

/// Bytes that the cgroup grants, or that the machine has.
pub(super) fn memory_granted() -> u64 {
    let limit =
        std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    limit.unwrap_or_else(|| {
        let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = info
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        total.unwrap_or(0) * 1024
    })
}
