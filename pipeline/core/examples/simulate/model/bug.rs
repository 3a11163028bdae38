//! Faults of the protocol itself, planted one at a time: the simulation must find each.

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The store compares what it saw before it waited for the lock.
    StaleRead,
    /// The store compares no token.
    NoToken,
    /// The store compares no position.
    NoPosition,
    /// The store claims without waiting for the write that holds the row.
    ClaimDoesNotWait,
    /// A batch with one fenced partition is refused as a whole, and written again as a whole.
    WholeBatch,
    /// A fenced partition is never claimed again.
    NeverClaimAgain,
    /// A partition that was claimed again is read on from where the reader was.
    KeepsReading,
    /// As before, but only where the store is behind the reader, as after a restore.
    KeepsPosition,
    /// A write without an answer counts as failed: its records are written under a new claim.
    UnansweredFailed,
    /// A write without an answer counts as done.
    UnansweredDone,
    /// No mark at the end of a partition: the position is the last record's offset and one.
    NoEndMark,
    /// Records get the claim that is held when they are written.
    StampedAtWrite,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::StaleRead,
        Self::NoToken,
        Self::NoPosition,
        Self::ClaimDoesNotWait,
        Self::WholeBatch,
        Self::NeverClaimAgain,
        Self::KeepsReading,
        Self::KeepsPosition,
        Self::UnansweredFailed,
        Self::UnansweredDone,
        Self::NoEndMark,
        Self::StampedAtWrite,
    ];

    /// The check that has to find it.
    pub fn found_by(self) -> &'static str {
        match self {
            Self::WholeBatch | Self::NeverClaimAgain | Self::UnansweredDone | Self::NoEndMark => "liveness",
            _ => "safety",
        }
    }
}
