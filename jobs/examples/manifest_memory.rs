//! Reads a manifest to its end and prints how many rows it had and the most memory this process ever used:
//! `cargo run --release -p spawn-jobs --example manifest_memory -- manifest.parquet`
#![allow(clippy::print_stdout, reason = "an example speaks")]

fn main() -> Result<(), String> {
    let path = std::env::args_os().nth(1).ok_or("which manifest?")?;
    let (mut rows, mut bad) = (0_u64, 0_u64);
    spawn_jobs::manifest::read(path.as_ref(), |item| {
        rows += 1;
        bad += u64::from(item.is_err());
        true
    })?;
    let status = std::fs::read_to_string("/proc/self/status").map_err(|e| e.to_string())?;
    let peak =
        status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("").trim().trim_end_matches(" kB");
    println!("{{\"rows\":{rows},\"bad\":{bad},\"peak_rss_kb\":{peak}}}");
    Ok(())
}
