//! Which class a Kafka error has, decided in one place.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use spawn_core::{Fault, FaultClass};

/// A fault of this error.
pub fn fault(what: &str, error: &KafkaError) -> Fault {
    Fault::new(class(error), "kafka", format!("{what}: {error}"))
}

fn class(error: &KafkaError) -> FaultClass {
    match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) | KafkaError::Subscription(_) => {
            FaultClass::Operator
        }
        _ => match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::InconsistentGroupProtocol,
            ) => FaultClass::Operator,
            // Brokers come back, leaders move, topics appear: waiting mends the rest.
            _ => FaultClass::Systemic,
        },
    }
}
