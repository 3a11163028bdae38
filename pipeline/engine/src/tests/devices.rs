//! Several devices behind one handle.

use crate::infer::tests::{chunk, spec};
use crate::{Device, Lane, LaneRules};
use spawn_core::{Embedding, Fault, Features, Inference, Model, ModelSpec};
use std::sync::{Arc, Barrier};

/// Says which device it is, once the other one is called too.
#[derive(Clone)]
struct Numbered(f32, Arc<Barrier>, ModelSpec);

impl Model for Numbered {
    fn spec(&self) -> &ModelSpec {
        &self.2
    }
    fn infer(&mut self, chunks: &[&Features]) -> Result<Vec<Inference>, Fault> {
        self.1.wait();
        let embedding = Embedding::try_new(vec![self.0, 1.0], 2).ok();
        Ok(chunks.iter().map(|_| Inference { embedding: embedding.clone(), labels: Vec::new() }).collect())
    }
    fn control(&mut self) -> Result<(), Fault> {
        Ok(())
    }
    fn fork(&self) -> Box<dyn Model> {
        Box::new(self.clone())
    }
}

#[tokio::test]
async fn calls_go_to_every_device() {
    let both = Arc::new(Barrier::new(2));
    let on = |n: f32| vec![Box::new(Numbered(n, both.clone(), spec())) as Box<dyn Model>];
    let device = Device::start(1, &[on(1.0), on(2.0)], LaneRules::default()).expect("starts");
    let handle = device.handle();
    let name = "fake".into();
    let call = || async {
        let answer = handle.infer(Lane::Live, &name, vec![chunk(1)], None).await.expect("no fault");
        let inference = answer.results.into_iter().next().expect("one").expect("not refused");
        inference.embedding.expect("has one").as_slice()[0]
    };
    let calls = std::time::Duration::from_secs(10);
    let (a, b) =
        tokio::time::timeout(calls, async { tokio::join!(call(), call()) }).await.expect("both are called");
    assert_eq!(a + b, 3.0, "{a} {b}");
}
