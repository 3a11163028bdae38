//! Commands about what became of records: `audit`, `dlq`, `delete`, `explain`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// `spawn audit`
#[derive(Args, Debug)]
pub struct Audit {
    /// Only this topic.
    #[arg(long, value_name = "TOPIC", env = "SPAWN_AUDIT_TOPIC")]
    pub topic: Option<String>,
    /// From this offset of each partition on.
    #[arg(long, value_name = "OFFSET", env = "SPAWN_AUDIT_FROM", requires = "topic", value_parser = clap::value_parser!(i64).range(0..))]
    pub from: Option<i64>,
    /// Before this offset of each partition.
    #[arg(long, value_name = "OFFSET", env = "SPAWN_AUDIT_TO", requires = "topic", value_parser = clap::value_parser!(i64).range(0..))]
    pub to: Option<i64>,
    /// Read the offsets again from Kafka and compare each with the ledger.
    #[arg(long, env = "SPAWN_AUDIT_KAFKA")]
    pub kafka: bool,
}

/// `spawn dlq`
#[derive(Subcommand, Debug)]
pub enum Dlq {
    /// List dead letters, or count them by what they have in common, with what to do about each.
    #[command(
        after_help = "Examples:\n  spawn dlq ls --by code\n  spawn dlq ls --code decode.truncated --limit 5"
    )]
    Ls(DlqLs),
    /// Show one dead letter with its headers and original bytes.
    #[command(
        after_help = "Examples:\n  spawn dlq show spawn.jobs.image.v1/3@1042\n  spawn dlq show 0123456789abcdef0123456789abcdef --output photo.jpg"
    )]
    Show(DlqShow),
    /// Send dead letters through the line again, at their own offsets, or as new records onto another topic.
    #[command(
        after_help = "Examples:\n  spawn dlq replay --code payload.denied --dry-run\n  spawn dlq replay --id spawn.jobs.image.v1/3@1042\n  spawn dlq replay --code decode.truncated --to-topic repaired --rate 50/s"
    )]
    Replay(DlqReplay),
    /// Remove the original bytes of old dead letters; what was refused and why stays.
    #[command(
        after_help = "Examples:\n  spawn dlq purge --older-than 30d --dry-run\n  spawn dlq purge --older-than 12h --code text.empty"
    )]
    Purge(DlqPurge),
}

/// What dead letters are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Why they were refused.
    Code,
    /// Who refused them.
    Pipeline,
    /// Where they lie.
    Topic,
}

/// `spawn dlq ls`
#[derive(Args, Debug)]
pub struct DlqLs {
    /// Count them by this instead of listing each.
    #[arg(long, value_name = "WHAT", env = "SPAWN_DLQ_BY")]
    pub by: Option<By>,
    /// Only this code.
    #[arg(long, value_name = "CODE", env = "SPAWN_DLQ_CODE")]
    pub code: Option<String>,
    /// Most rows, 1 to 1000.
    #[arg(long, value_name = "N", env = "SPAWN_DLQ_LIMIT", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// Where the last page ended.
    #[arg(long, value_name = "CURSOR", env = "SPAWN_DLQ_CURSOR", conflicts_with = "by")]
    pub cursor: Option<String>,
}

/// `spawn dlq show`
#[derive(Args, Debug)]
pub struct DlqShow {
    /// The item's id, or topic/partition@offset.
    #[arg(value_name = "ID")]
    pub name: String,
    /// Write the original value to this file; - is stdout.
    #[arg(long, value_name = "FILE", env = "SPAWN_DLQ_OUTPUT")]
    pub output: Option<PathBuf>,
}

/// `spawn dlq replay`
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["code", "id"]))]
pub struct DlqReplay {
    /// All of this code.
    #[arg(long, value_name = "CODE", env = "SPAWN_DLQ_CODE")]
    pub code: Option<String>,
    /// An item's id, or topic/partition@offset; may be repeated.
    #[arg(long, value_name = "ID", env = "SPAWN_DLQ_ID", value_delimiter = ',')]
    pub id: Vec<String>,
    /// At most so many a second, for example 50/s; as fast as it goes without it.
    #[arg(long, value_name = "N/s", env = "SPAWN_DLQ_RATE", value_parser = per_second)]
    pub rate: Option<f64>,
    /// Produce them as new records onto this topic instead; the dead letters stay.
    #[arg(long, value_name = "TOPIC", env = "SPAWN_DLQ_TO_TOPIC")]
    pub to_topic: Option<String>,
    /// Say what would be replayed, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn dlq purge`
#[derive(Args, Debug)]
pub struct DlqPurge {
    /// First failed longer ago than this, for example 30d, 12h, 90m or 45s.
    #[arg(long, value_name = "AGE", env = "SPAWN_DLQ_OLDER_THAN", value_parser = age)]
    pub older_than: Duration,
    /// Only this code.
    #[arg(long, value_name = "CODE", env = "SPAWN_DLQ_CODE")]
    pub code: Option<String>,
    /// Say how many would be purged, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn delete`
#[derive(Args, Debug)]
pub struct Delete {
    /// The Kafka key, as text.
    #[arg(long, value_name = "KEY", env = "SPAWN_DELETE_KEY")]
    pub key: String,
    /// The topic that the key was used on.
    #[arg(long, value_name = "TOPIC", env = "SPAWN_DELETE_TOPIC")]
    pub topic: String,
    /// Only this partition; all without it.
    #[arg(long, value_name = "N", env = "SPAWN_DELETE_PARTITION", value_parser = clap::value_parser!(i32).range(0..))]
    pub partition: Option<i32>,
    /// Say what would be deleted, change nothing.
    #[arg(long, env = "SPAWN_DRY_RUN")]
    pub dry_run: bool,
}

/// `spawn explain`
#[derive(Args, Debug)]
pub struct Explain {
    /// The item's id.
    #[arg(value_name = "ID")]
    pub id: String,
    /// Of this generation; of the active one without it.
    #[arg(long, value_name = "N", env = "SPAWN_EXPLAIN_GENERATION")]
    pub generation: Option<i32>,
    /// Only tell where it comes from; load no model.
    #[arg(long, env = "SPAWN_EXPLAIN_NO_RERUN")]
    pub no_rerun: bool,
}

/// `50/s` or `50`.
fn per_second(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate: f64 = number.parse().map_err(|_| format!("`{text}` is no rate: write it as 50/s"))?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("a rate is more than 0/s".into()) }
}

/// `30d`, `12h`, `90m`, `45s`.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no age: write it as 30d, 12h, 90m or 45s");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    // A thousand centuries fit into the database's intervals.
    let number: u64 = number.parse::<u32>().map_err(|_| wrong())?.into();
    Some(number * seconds).filter(|s| *s <= 100_000 * 366 * 86_400).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_rates_are_read() {
        for (text, seconds) in [("30d", 2_592_000), ("12h", 43_200), ("90m", 5400), ("0s", 0)] {
            assert_eq!(age(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for wrong in ["", "d", "30", "-1d", "1.5h", "4294967295d", "1w", "3é"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
        assert_eq!((per_second("50/s"), per_second("0.5")), (Ok(50.0), Ok(0.5)));
        for wrong in ["", "/s", "0", "-1/s", "NaN", "inf", "5/m"] {
            assert!(per_second(wrong).is_err(), "{wrong}");
        }
    }
}
