//! `spawn dlq replay`: in place, a dead letter becomes a deferred record again, which a worker tries at its old offset; with --to-topic its
//! original key, value and headers become a new record elsewhere.

use crate::cli::DlqReplay;
use crate::config::Settings;
use crate::exit::{Code, Failure, OrExit, Outcome};
use crate::output::{Output, bar};
use crate::relay::original;
use indicatif::ProgressBar;
use serde_json::json;
use spawn_kafka::{Producer, ProducerConfig};
use spawn_postgres::{Letter, LetterCounts, LetterName, Store, Wanted};
use std::time::Duration;
use tokio::time::Instant;

/// Dead letters moved in one transaction, or on their way to a topic at once.
const PORTION: usize = 200;
/// Bytes on their way to a topic at once; a larger record goes alone.
const PORTION_BYTES: usize = 16 << 20;

/// What became of them.
#[derive(Default)]
struct Replayed {
    replayed: i64,
    /// Not sent to another topic, because their key was deleted later.
    superseded: i64,
}

pub(super) async fn run(args: DlqReplay, settings: Settings, out: Output) -> Outcome {
    let store = super::store(&settings).await?;
    let wanted = wanted(&args, &store).await?;
    let counts = store.count_letters(&wanted).await.map_err(super::asked)?;
    let mut replayed = Replayed::default();
    if !args.dry_run {
        let bars = out.bars();
        let line = bar(&bars, "replay", (counts.records - counts.purged).max(0) as u64);
        let pace = Pace::new(args.rate);
        match &args.to_topic {
            None => {
                let give_up = Duration::from_secs(settings.redrive.give_up_seconds);
                in_place(&store, &wanted, give_up, pace, &line, &mut replayed).await
            }
            Some(topic) => to_topic(&store, &wanted, (&settings, topic), pace, &line, &mut replayed).await,
        }
        .inspect_err(|_| out.note(format_args!("{} were replayed before this", replayed.replayed)))?;
        line.finish_and_clear();
    }
    tell(&args, counts, &replayed, out);
    Ok(())
}

/// Names as numbers; one that names nothing is an error.
async fn wanted(args: &DlqReplay, store: &Store) -> Outcome<Wanted> {
    if let Some(code) = &args.code {
        return Ok(Wanted::Code(code.clone()));
    }
    let mut numbers = Vec::new();
    for written in &args.id {
        let name: LetterName = written.parse().map_err(super::asked)?;
        let found = store.letter_numbers(&name).await.map_err(super::asked)?;
        if found.is_empty() {
            return Err(Failure::new(
                Code::Data,
                format!("there is no dead letter {written}: `spawn dlq ls` lists them"),
            ));
        }
        numbers.extend(found);
    }
    Ok(Wanted::Numbers(numbers))
}

async fn in_place(
    store: &Store,
    wanted: &Wanted,
    give_up: Duration,
    mut pace: Pace,
    line: &ProgressBar,
    done: &mut Replayed,
) -> Outcome {
    let mut after = 0;
    loop {
        let numbers =
            store.replayable(wanted, true, after, pace.portion() as i64).await.map_err(super::asked)?;
        let Some(last) = numbers.last() else { return Ok(()) };
        after = *last;
        pace.wait(numbers.len()).await;
        done.replayed += store.replay(&numbers, give_up).await.map_err(super::asked)?;
        line.inc(numbers.len() as u64);
    }
}

async fn to_topic(
    store: &Store,
    wanted: &Wanted,
    (settings, topic): (&Settings, &str),
    mut pace: Pace,
    line: &ProgressBar,
    done: &mut Replayed,
) -> Outcome {
    let kafka = &settings.kafka;
    let partitions = spawn_kafka::partitions(&kafka.brokers, &kafka.properties, &[topic.to_owned()])
        .await
        .or_exit(Code::Unavailable)?;
    if !partitions.get(topic).is_some_and(Option::is_some) {
        return Err(Failure::new(Code::Data, format!("there is no topic {topic}: create it first")));
    }
    let producer =
        Producer::new(ProducerConfig::new(&kafka.brokers, &kafka.properties)).or_exit(Code::Unavailable)?;
    let mut after = 0;
    loop {
        let numbers =
            store.replayable(wanted, false, after, pace.portion() as i64).await.map_err(super::asked)?;
        let Some(last) = numbers.last() else { return Ok(()) };
        after = *last;
        let mut rest = numbers.as_slice();
        while !rest.is_empty() {
            let letters = portion(store, &mut rest).await?;
            let sent = letters.iter().filter(|l| !l.row.superseded && !l.row.purged);
            let sent: Vec<&Letter> = sent.collect();
            done.superseded += letters.iter().filter(|l| l.row.superseded).count() as i64;
            pace.wait(sent.len()).await;
            let reports = sent.iter().map(|letter| producer.send(original(letter, topic.to_owned())));
            for report in futures::future::join_all(reports).await {
                report.or_exit(Code::Unavailable)?;
                done.replayed += 1;
            }
            line.inc(letters.len() as u64);
        }
    }
}

/// The next dead letters with their bytes, bounded in bytes.
async fn portion(store: &Store, rest: &mut &[i64]) -> Outcome<Vec<Letter>> {
    let (mut letters, mut bytes) = (Vec::new(), 0);
    while let [number, others @ ..] = *rest {
        if bytes >= PORTION_BYTES {
            break;
        }
        *rest = others;
        // One that somebody replayed or purged meanwhile is not there any more.
        let Some(letter) = store.letter(*number).await.map_err(super::asked)? else { continue };
        bytes += letter.record.value.as_ref().map_or(0, Vec::len);
        letters.push(letter);
    }
    Ok(letters)
}

fn tell(args: &DlqReplay, counts: LetterCounts, done: &Replayed, out: Output) {
    if out.json {
        let answer = json!({"found": counts.records, "purged": counts.purged, "superseded": counts.superseded, "ended": counts.ended,
            "replayed": done.replayed, "to_topic": args.to_topic, "dry_run": args.dry_run});
        return out.json("dlq.replay", answer);
    }
    let place = args.to_topic.as_ref().map_or("in place".to_owned(), |topic| format!("to {topic}"));
    match args.dry_run {
        true => out.line(format_args!(
            "{} dead letters would be replayed {place}",
            counts.records
                - counts.purged
                - args.to_topic.as_ref().map_or(counts.ended, |_| counts.superseded)
        )),
        false => out.line(format_args!("{} dead letters replayed {place}", done.replayed)),
    }
    if counts.purged > 0 {
        out.note(format_args!("{} stay: their original bytes were purged", counts.purged));
    }
    if counts.ended > 0 && args.to_topic.is_none() {
        out.note(format_args!("{} stay: the reading of their topic was ended; use --to-topic", counts.ended));
    }
    match (&args.to_topic, counts.superseded) {
        (_, 0) => {}
        (None, n) => out.note(format_args!("{n} will be skipped: their key was deleted later")),
        (Some(_), n) => out.note(format_args!("{n} stay: their key was deleted later")),
    }
    if !args.dry_run && args.to_topic.is_none() && done.replayed > 0 {
        out.note("a worker tries them now; `spawn dlq ls` shows those that come back");
    }
}

/// Keeps to a rate by spacing portions, not by bursts.
struct Pace {
    rate: Option<f64>,
    next: Instant,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self { rate, next: Instant::now() }
    }

    /// A tenth of a second's worth, at least one.
    fn portion(&self) -> usize {
        self.rate.map_or(PORTION, |rate| ((rate / 10.0) as usize).clamp(1, PORTION))
    }

    /// Until so many may go.
    async fn wait(&mut self, records: usize) {
        if let Some(rate) = self.rate {
            tokio::time::sleep_until(self.next).await;
            self.next =
                self.next.max(Instant::now()) + Duration::from_secs_f64((records as f64 / rate).min(3600.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_over_portions() {
        let (mut pace, started) = (Pace::new(Some(50.0)), Instant::now());
        assert_eq!(pace.portion(), 5);
        for _ in 0..100 {
            pace.wait(5).await;
        }
        // The first portion goes at once.
        assert_eq!(started.elapsed().as_millis(), 9900);
        assert_eq!((Pace::new(Some(0.2)).portion(), Pace::new(None).portion()), (1, PORTION));
    }
}
