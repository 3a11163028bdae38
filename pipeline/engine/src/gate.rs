//! Whether a pipeline reads: all of its partitions, none because somebody said so, or one to find out whether things are well again.

use spawn_core::Claimed;
use std::collections::BTreeMap;
use tokio::sync::watch;

/// What the line may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: the store was not asked yet.
    Unknown,
    /// Every partition that is claimed.
    Open,
    /// Nothing. Claims and the place in the group are kept.
    Paused,
    /// One partition, whose first unit decides.
    Probing(i32),
}

/// Shared by those who close it and by the intake.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    mode: watch::Sender<Mode>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { mode: watch::Sender::new(Mode::Unknown) }
    }
}

impl Gate {
    pub(crate) fn mode(&self) -> Mode {
        *self.mode.borrow()
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until some of these may be read; takes them out.
    pub(crate) async fn pass(&self, waiting: &mut BTreeMap<i32, Claimed>) -> Vec<Claimed> {
        let mut seen = self.mode.subscribe();
        loop {
            let mode = *seen.borrow_and_update();
            let may = |partition: &i32, _: &mut Claimed| match mode {
                Mode::Open => true,
                Mode::Probing(one) => one == *partition,
                Mode::Unknown | Mode::Paused => false,
            };
            let passing: Vec<Claimed> = waiting.extract_if(.., may).map(|(_, claimed)| claimed).collect();
            if !passing.is_empty() {
                return passing;
            }
            seen.changed().await.expect("the gate holds its own sender. This is a bug.");
        }
    }
}
