//! Reads the metrics of a running worker: a request to `/metrics`, and its text as samples.

use crate::exit::{Code, Failure, Outcome};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Longest answer.
const BYTES_MAX: u64 = 16 << 20;

/// All samples of one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Labels that a sample must have.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Snapshot {
    /// Asks a worker at `host:port`.
    pub async fn take(address: &str) -> Outcome<Self> {
        let asked = tokio::time::timeout(ANSWER_MAX, ask(address)).await;
        let failed = |why: String| {
            let help = "is a worker running there? `metrics.listen` says where it serves its metrics";
            Failure::new(Code::Unavailable, format!("no metrics at {address}: {why}; {help}"))
        };
        match asked {
            Ok(Ok(text)) => Ok(Self::parse(&text)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_elapsed) => Err(failed("no answer within five seconds".into())),
        }
    }

    fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter(|line| !line.starts_with('#')).filter_map(sample).collect() }
    }

    fn of<'a>(&'a self, name: &'a str, labels: Labels<'a>) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |s| {
            s.name == name && labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|label| label == v))
        })
    }

    /// The sum of all samples of a name that have these labels; 0 without any.
    pub fn sum(&self, name: &str, labels: Labels<'_>) -> f64 {
        self.of(name, labels).map(|s| s.value).sum()
    }

    /// The largest of them; 0 without any.
    pub fn max(&self, name: &str, labels: Labels<'_>) -> f64 {
        self.of(name, labels).map(|s| s.value).fold(0.0, f64::max)
    }

    /// The values by one label.
    pub fn by(&self, name: &str, label: &str, labels: Labels<'_>) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        for sample in self.of(name, labels) {
            let Some(key) = sample.labels.get(label) else { continue };
            *values.entry(key.clone()).or_default() += sample.value;
        }
        values
    }

    /// The mean of a histogram since `earlier`; none where nothing was counted.
    pub fn mean(&self, name: &str, labels: Labels<'_>, earlier: &Self) -> Option<f64> {
        let since = |part: &str| {
            let name = format!("{name}_{part}");
            self.sum(&name, labels) - earlier.sum(&name, labels)
        };
        let count = since("count");
        (count > 0.0).then(|| since("sum") / count)
    }

    /// A quantile of a histogram since `earlier`, by linear interpolation inside its bucket; none where nothing was counted. What lies in
    /// the last, open bucket is told as that bucket's lower bound.
    pub fn quantile(&self, name: &str, labels: Labels<'_>, q: f64, earlier: &Self) -> Option<f64> {
        let name = format!("{name}_bucket");
        let before = earlier.by(&name, "le", labels);
        let mut buckets: Vec<(f64, f64)> = self
            .by(&name, "le", labels)
            .into_iter()
            .map(|(le, count)| {
                let bound = le.parse().unwrap_or(f64::INFINITY);
                (bound, count - before.get(&le).copied().unwrap_or(0.0))
            })
            .collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        let wanted = q * buckets.last()?.1;
        let (mut lower, mut below) = (0.0, 0.0);
        for (bound, count) in buckets {
            if count >= wanted && count > 0.0 {
                let part = (wanted - below) / (count - below).max(1e-9);
                return Some(if bound.is_finite() { lower + (bound - lower) * part } else { lower });
            }
            (lower, below) = (bound, count);
        }
        None
    }
}

async fn ask(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    // Without keep-alive and chunks: all that comes is the answer.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(BYTES_MAX).read_to_string(&mut answer).await?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => Ok(body.to_owned()),
        _ => Err(std::io::Error::other("the answer is not 200")),
    }
}

/// `name{label="value",..} number`. Values of our labels hold neither quotes nor commas.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches('}').split(',').filter_map(|pair| {
        let (label, value) = pair.split_once('=')?;
        Some((label.to_owned(), value.trim_matches('"').to_owned()))
    });
    Some(Sample { name: name.to_owned(), labels: labels.collect(), value: value.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE x counter\nx{pipeline=\"a\",stage=\"fetch\"} 3\nx{pipeline=\"b\"} 4.5\ny 1\n\
        h_bucket{le=\"0.1\"} 10\nh_bucket{le=\"0.2\"} 30\nh_bucket{le=\"+Inf\"} 40\nh_sum 8\nh_count 40\n";

    #[test]
    fn samples_are_summed_and_told_apart_by_their_labels() {
        let snapshot = Snapshot::parse(TEXT);
        assert_eq!(snapshot.sum("x", &[]), 7.5);
        assert_eq!(snapshot.sum("x", &[("pipeline", "a"), ("stage", "fetch")]), 3.0);
        assert_eq!(snapshot.by("x", "pipeline", &[]), [("a".into(), 3.0), ("b".into(), 4.5)].into());
        assert_eq!((snapshot.sum("y", &[]), snapshot.sum("z", &[])), (1.0, 0.0));
    }

    #[test]
    fn quantiles_lie_inside_their_bucket_and_count_only_what_is_new() {
        let (snapshot, nothing) = (Snapshot::parse(TEXT), Snapshot::default());
        let quantile = |q, earlier| snapshot.quantile("h", &[], q, earlier);
        assert!((quantile(0.5, &nothing).expect("counted") - 0.15).abs() < 1e-9);
        assert_eq!(quantile(0.99, &nothing), Some(0.2), "the open bucket");
        assert_eq!(snapshot.mean("h", &[], &nothing), Some(0.2));
        assert_eq!((quantile(0.5, &snapshot), snapshot.mean("h", &[], &snapshot)), (None, None));
    }
}
