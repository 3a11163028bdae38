//! What the line wants of the poll thread.
//!
//! No queue: wishes of one kind join, so that they are bounded by the number of partitions and none is ever refused. (A stop or a reclaim
//! that found a full queue would leave a worker that never ends, or a partition that nobody reads.)

use spawn_core::{Claim, Claimed};
use std::collections::{BTreeMap, BTreeSet};

/// Wishes since the poll thread looked last. It fulfils them in the order of the fields: a start that a reclaim overtook is repeated
/// under a newer claim, which is right; the other way round the reclaim would be lost.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Claimed partitions, to be read from their positions.
    pub(crate) start: BTreeMap<i32, Claimed>,
    /// Partitions to be announced again.
    pub(crate) reclaim: BTreeSet<i32>,
    /// Positions for dashboards, and under which claim they were reached.
    pub(crate) commit: BTreeMap<i32, (Claim, i64)>,
    /// No more records, then the end.
    pub(crate) stop: bool,
    /// The source is gone: leave the group.
    pub(crate) close: bool,
}
