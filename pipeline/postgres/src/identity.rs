//! Who a pipeline is. Everything that changes what its rows mean goes into one hash, which its source keeps: a binary with another
//! model, preparation or number type cannot claim the topic's partitions by mistake.

use spawn_core::{ContentHash, Modality};
use std::fmt::Write;

/// What a pipeline reads, and what it makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelineIdentity {
    /// Its name.
    pub pipeline: String,
    /// The topic it reads.
    pub topic: String,
    /// Where its results may be found together with others'.
    pub collection: String,
    /// What it works on.
    pub modality: Modality,
    /// `name@version`, by the first digits of the version.
    pub model: String,
    /// The whole version: what tells two models apart.
    pub model_hash: String,
    /// The stage's canonical specification.
    pub preparation: String,
    /// Number type of the computation.
    pub dtype: String,
    /// Elements of a vector, 1 to 16,000.
    pub dimension: usize,
}

impl PipelineIdentity {
    /// One line per part, for a person who has to compare two.
    pub fn spec(&self) -> String {
        let mut spec = String::new();
        let dimension = self.dimension.to_string();
        for (name, value) in [
            ("topic", self.topic.as_str()),
            ("collection", &self.collection),
            ("modality", self.modality.as_str()),
            ("model", &self.model),
            ("preparation", &self.preparation),
            ("dtype", &self.dtype),
            ("dimension", &dimension),
        ] {
            // The length keeps values that hold line ends apart.
            writeln!(spec, "{name}[{}] = {value}", value.len()).expect("a string takes all. This is a bug.");
        }
        spec
    }

    /// BLAKE3 of [`PipelineIdentity::spec`].
    pub fn spec_hash(&self) -> [u8; 32] {
        ContentHash::of(self.spec().as_bytes()).0
    }
    /// What is now otherwise than in a stored spec, for a person. Two specs have the same lines in the same order.
    pub fn differences(&self, stored: &str) -> Vec<String> {
        let ours = self.spec();
        stored
            .lines()
            .zip(ours.lines())
            .filter(|(stored, ours)| stored != ours)
            .map(|(stored, ours)| format!("then `{}`, now `{}`", short(stored), short(ours)))
            .collect()
    }
}

fn short(text: &str) -> String {
    if text.chars().count() <= 200 {
        text.to_owned()
    } else {
        text.chars().take(200).chain("...".chars()).collect()
    }
}
