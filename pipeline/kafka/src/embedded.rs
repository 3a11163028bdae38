//! A broker inside the process, for a try without Java: librdkafka's mock cluster. It keeps a few MiB per partition and forgets
//! everything at the end.

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use spawn_core::{Fault, FaultClass};

/// Lives as long as this value.
pub struct EmbeddedBroker {
    cluster: MockCluster<'static, DefaultProducerContext>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EmbeddedBroker({})", self.brokers())
    }
}

impl EmbeddedBroker {
    /// Starts a broker with these topics.
    pub fn start(topics: &[String], partitions: i32) -> Result<Self, Fault> {
        let failed =
            |e| Fault::new(FaultClass::Operator, "kafka", format!("cannot start the embedded broker: {e}"));
        let cluster = MockCluster::new(1).map_err(failed)?;
        for topic in topics {
            cluster.create_topic(topic, partitions, 1).map_err(failed)?;
        }
        tracing::warn!(
            "the embedded broker forgets everything when this process ends, and keeps only a few MiB per partition"
        );
        Ok(Self { cluster })
    }

    /// Where it listens.
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }
}
