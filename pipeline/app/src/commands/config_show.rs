//! `spawn config show`

use crate::config::Loaded;
use crate::exit::Outcome;
use crate::output::Output;
use serde_json::json;

pub(super) fn run(loaded: &Loaded, out: Output) -> Outcome {
    if out.json {
        let values = loaded
            .provenance
            .iter()
            .map(|(key, (value, origin))| json!({"key": key, "value": value, "source": origin}));
        out.json("config", json!({"values": values.collect::<Vec<_>>()}));
        return Ok(());
    }
    for (key, (value, origin)) in &loaded.provenance {
        out.line(format_args!("{key:<36} {value:<44} {origin}"));
    }
    Ok(())
}
