//! Pools of bytes that work must enter before it may occupy memory.
//!
//! There are two, raw and decoded, and each is entered at one gate, in order. Whoever holds decoded bytes acquires nothing more, so
//! the pools cannot deadlock: decoded bytes always come free, and with them the raw ones.
//!
//! Each pipeline has a [`Share`] of a pool: a floor that nobody else can take, and what all have in common beyond the floors. Waiting
//! work is served first come, first served, but who waits for common bytes holds up nobody who still has room below its own floor.
//!
//! A reference's size is known only once its host answers. It enters with an estimate and grows while it is fetched, though others hold
//! bytes meanwhile. So each share keeps a reserve as large as the largest payload, and only the oldest record that may still grow may
//! use it. What was admitted before that record does not grow any more: it is written and gives its bytes back, the reserve among them,
//! whatever younger records hold. So the oldest can always finish, then the next is the oldest: growing cannot deadlock either, and the
//! sum of all never passes the pool.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, oneshot};

/// A bounded pool of bytes, to be divided into shares.
#[derive(Clone, Debug)]
pub struct Budget {
    name: &'static str,
    bytes_total: usize,
    pool: Arc<Mutex<Pool>>,
}

/// One pipeline's way into a pool. Clones are the same share.
#[derive(Clone, Debug)]
pub struct Share {
    budget: Budget,
    index: usize,
    pressed: Arc<Notify>,
}

/// Bytes that are held, given back on drop.
#[derive(Debug)]
pub struct Reservation {
    share: Share,
    /// Its age among those that may grow; 0 for others.
    ticket: u64,
    /// Of the floor and the common bytes.
    ordinary: usize,
    /// Of the share's reserve.
    reserved: usize,
}

#[derive(Debug, Default)]
struct Pool {
    common_total: usize,
    common_free: usize,
    shares: Vec<Account>,
    waiting: VecDeque<Waiting>,
    tickets: u64,
}

#[derive(Debug)]
struct Account {
    floor: usize,
    reserve_free: usize,
    /// Of floor and common bytes.
    used: usize,
    /// Those that may still grow, oldest first.
    growing: BTreeSet<u64>,
    pressed: Arc<Notify>,
}

#[derive(Debug)]
struct Waiting {
    index: usize,
    bytes: usize,
    why: Why,
    granted_tx: oneshot::Sender<Reservation>,
    share: Share,
}

/// What bytes are wanted for.
#[derive(Clone, Copy, Debug)]
enum Why {
    /// To enter with a size that is known.
    Enter,
    /// To enter with one that may grow.
    EnterGrowing,
    /// For the one with this ticket, which grows.
    Grow(u64),
}

impl Budget {
    /// A pool of `bytes_total`, nothing of it given to a share yet.
    pub fn new(name: &'static str, bytes_total: usize) -> Self {
        let pool = Pool { common_total: bytes_total, common_free: bytes_total, ..Pool::default() };
        Self { name, bytes_total, pool: Arc::new(Mutex::new(pool)) }
    }

    /// A share with a floor, and a reserve for growing; both are taken from what is common, as far as that goes. To be called before
    /// anybody enters.
    pub fn share(&self, floor: usize, reserve: usize) -> Share {
        let mut pool = self.lock();
        let reserve_free = reserve.min(pool.common_free);
        let floor = floor.min(pool.common_free - reserve_free);
        pool.common_free -= floor + reserve_free;
        pool.common_total = pool.common_free;
        let pressed = Arc::new(Notify::new());
        let account =
            Account { floor, reserve_free, used: 0, growing: BTreeSet::new(), pressed: pressed.clone() };
        pool.shares.push(account);
        Share { budget: self.clone(), index: pool.shares.len() - 1, pressed }
    }

    /// Bytes in all.
    pub fn bytes_total(&self) -> usize {
        self.bytes_total
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets in whoever has room now.
    fn serve(&self) {
        let granted = self.lock().grant();
        // Outside the lock: a reservation that nobody takes any more is given back right here.
        granted.into_iter().for_each(|(tx, reservation)| drop(tx.send(reservation)));
    }
}

impl Share {
    /// Waits for `bytes`. More than this share can ever have waits for all of that: such a piece of work enters alone.
    pub async fn acquire(&self, bytes: usize) -> Reservation {
        self.wait(bytes, Why::Enter).await
    }

    /// Waits for `bytes`, which may grow later. It counts as growing until [`Reservation::shrink_to`].
    pub async fn acquire_growing(&self, bytes: usize) -> Reservation {
        self.wait(bytes, Why::EnterGrowing).await
    }

    async fn wait(&self, bytes: usize, why: Why) -> Reservation {
        let (granted_tx, mut granted_rx) = oneshot::channel();
        {
            let mut pool = self.budget.lock();
            let most = pool.shares[self.index].floor + pool.common_total;
            let bytes = if matches!(why, Why::Grow(_)) { bytes } else { bytes.min(most) };
            let waiting = Waiting { index: self.index, bytes, why, granted_tx, share: self.clone() };
            pool.waiting.push_back(waiting);
        }
        self.budget.serve();
        if let Ok(reservation) = granted_rx.try_recv() {
            return reservation;
        }
        // Whatever waits for company downstream should leave now: its memory is wanted.
        self.budget.lock().press(self.index);
        granted_rx.await.expect("a waiting entry is only removed when granted. This is a bug.")
    }

    /// Completes when work of this share, or work that wants what this share has beyond its floor, had to wait.
    pub async fn pressed(&self) {
        self.pressed.notified().await;
    }

    /// The pool's name in metrics.
    pub fn name(&self) -> &'static str {
        self.budget.name
    }

    /// Bytes of the whole pool in use now.
    pub fn bytes_used(&self) -> usize {
        let pool = self.budget.lock();
        let free: usize = pool
            .shares
            .iter()
            .map(|account| account.floor.saturating_sub(account.used) + account.reserve_free)
            .sum();
        self.budget.bytes_total - pool.common_free - free
    }

    /// Bytes of the whole pool.
    pub fn bytes_total(&self) -> usize {
        self.budget.bytes_total
    }
}

impl Reservation {
    /// Takes more until `bytes` are held, if there is room at once.
    pub fn try_grow(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes());
        let (index, ticket) = (self.share.index, self.ticket);
        let mut pool = self.share.budget.lock();
        let oldest = pool.is_oldest(index, ticket);
        // Not past others that wait for the same bytes.
        let ordinary = pool.waiting.is_empty() && pool.fits(index, more);
        if ordinary {
            pool.take(index, more);
            self.ordinary += more;
        } else if oldest && pool.shares[index].reserve_free >= more {
            pool.shares[index].reserve_free -= more;
            self.reserved += more;
        } else {
            return false;
        }
        true
    }

    /// Waits until `bytes` are held.
    pub async fn grow(&mut self, bytes: usize) {
        let more = bytes.saturating_sub(self.bytes());
        if more > 0 && !self.try_grow(bytes) {
            let mut grown = self.share.wait(more, Why::Grow(self.ticket)).await;
            self.ordinary += std::mem::take(&mut grown.ordinary);
            self.reserved += std::mem::take(&mut grown.reserved);
        }
    }

    /// Gives back what exceeds `bytes`; it does not grow any more.
    pub fn shrink_to(&mut self, bytes: usize) {
        let over = self.bytes().saturating_sub(bytes);
        let reserved = over.min(self.reserved);
        let ordinary = over - reserved;
        (self.reserved, self.ordinary) = (self.reserved - reserved, self.ordinary - ordinary);
        {
            let mut pool = self.share.budget.lock();
            pool.give_back(self.share.index, ordinary, reserved);
            pool.shares[self.share.index].growing.remove(&self.ticket);
        }
        self.share.budget.serve();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.ordinary + self.reserved
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

impl Pool {
    fn drawn(&self, index: usize, used: usize) -> usize {
        used.saturating_sub(self.shares[index].floor)
    }

    /// Common bytes that `more` would take.
    fn wanted(&self, index: usize, more: usize) -> usize {
        let used = self.shares[index].used;
        self.drawn(index, used + more) - self.drawn(index, used)
    }

    fn fits(&self, index: usize, more: usize) -> bool {
        self.wanted(index, more) <= self.common_free
    }

    fn take(&mut self, index: usize, more: usize) {
        self.common_free -= self.wanted(index, more);
        self.shares[index].used += more;
    }

    fn give_back(&mut self, index: usize, ordinary: usize, reserved: usize) {
        let used = self.shares[index].used;
        self.common_free += self.drawn(index, used) - self.drawn(index, used - ordinary);
        self.shares[index].used -= ordinary;
        self.shares[index].reserve_free += reserved;
    }

    fn is_oldest(&self, index: usize, ticket: u64) -> bool {
        self.shares[index].growing.first() == Some(&ticket)
    }

    fn press(&self, index: usize) {
        let own = &self.shares[index];
        own.pressed.notify_one();
        let above_floor = |account: &&Account| account.used > account.floor;
        self.shares.iter().filter(above_floor).for_each(|account| account.pressed.notify_one());
    }

    /// Takes for all that have room, in order.
    fn grant(&mut self) -> Vec<(oneshot::Sender<Reservation>, Reservation)> {
        let mut granted = Vec::new();
        let mut left = VecDeque::with_capacity(self.waiting.len());
        let (mut common_blocked, mut blocked) = (false, vec![false; self.shares.len()]);
        for waiting in std::mem::take(&mut self.waiting) {
            let Waiting { index, bytes, why, .. } = waiting;
            if waiting.granted_tx.is_closed() {
                continue;
            }
            let wanted = self.wanted(index, bytes);
            let may = !(blocked[index] || common_blocked && wanted > 0);
            let oldest = matches!(why, Why::Grow(ticket) if self.is_oldest(index, ticket));
            let reserve = oldest && self.shares[index].reserve_free >= bytes;
            let (ordinary, reserved) = if may && self.fits(index, bytes) {
                self.take(index, bytes);
                (bytes, 0)
            } else if reserve {
                self.shares[index].reserve_free -= bytes;
                (0, bytes)
            } else {
                blocked[index] = true;
                common_blocked |= wanted > 0;
                left.push_back(waiting);
                continue;
            };
            // Only what may grow has a ticket; what is granted to one that grows is added to it.
            let mut ticket = 0;
            if matches!(why, Why::EnterGrowing) {
                self.tickets += 1;
                ticket = self.tickets;
                self.shares[index].growing.insert(ticket);
            }
            granted
                .push((waiting.granted_tx, Reservation { share: waiting.share, ticket, ordinary, reserved }));
        }
        self.waiting = left;
        granted
    }
}

#[cfg(test)]
mod tests;
