//! Where the time of a verb goes: busy, starved of input, or blocked by what follows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// What a verb is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Working.
    Busy,
    /// Waiting for input.
    Starved,
    /// Waiting for room in what follows, or for memory.
    Blocked,
}

/// Time and work of one verb of one pipeline. Cheap enough to be told of every change.
#[derive(Debug)]
pub struct Meter {
    /// The verb's name in metrics and reports.
    pub stage: &'static str,
    since: Mutex<(State, Instant)>,
    nanos: [AtomicU64; 3],
    cpu_nanos: AtomicU64,
    items: AtomicU64,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeterReading {
    /// Time working.
    pub busy: Duration,
    /// Time waiting for input.
    pub starved: Duration,
    /// Time waiting for what follows.
    pub blocked: Duration,
    /// CPU time of the threads that did the work, where it is known.
    pub cpu: Duration,
    /// Records that came out.
    pub items: u64,
}

impl Meter {
    /// A meter that starts now, starved.
    pub fn new(stage: &'static str) -> Self {
        Self {
            stage,
            since: Mutex::new((State::Starved, Instant::now())),
            nanos: Default::default(),
            cpu_nanos: AtomicU64::new(0),
            items: AtomicU64::new(0),
        }
    }

    /// The verb is in `state` from now on.
    pub fn enter(&self, state: State) {
        let now = Instant::now();
        let mut since = self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.nanos[since.0 as usize].fetch_add((now - since.1).as_nanos() as u64, Relaxed);
        *since = (state, now);
    }

    /// Runs a future in `state` and returns to `Busy`.
    pub async fn during<T>(&self, state: State, future: impl Future<Output = T>) -> T {
        self.enter(state);
        let output = future.await;
        self.enter(State::Busy);
        output
    }

    /// Adds CPU time.
    pub fn add_cpu(&self, cpu: Duration) {
        self.cpu_nanos.fetch_add(cpu.as_nanos() as u64, Relaxed);
    }

    /// Adds finished records.
    pub fn add_items(&self, items: u64) {
        self.items.fetch_add(items, Relaxed);
    }

    /// Totals until now.
    pub fn read(&self) -> MeterReading {
        let state = self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner).0;
        self.enter(state);
        let nanos = |i: State| Duration::from_nanos(self.nanos[i as usize].load(Relaxed));
        MeterReading {
            busy: nanos(State::Busy),
            starved: nanos(State::Starved),
            blocked: nanos(State::Blocked),
            cpu: Duration::from_nanos(self.cpu_nanos.load(Relaxed)),
            items: self.items.load(Relaxed),
        }
    }
}

impl MeterReading {
    /// Shares of busy, starved and blocked; they sum to 1 (or are all 0 before any time passed).
    pub fn ratios(&self) -> [f64; 3] {
        let all = [self.busy, self.starved, self.blocked].map(|d| d.as_secs_f64());
        let total: f64 = all.iter().sum();
        all.map(|part| if total > 0.0 { part / total } else { 0.0 })
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            starved: self.starved.saturating_sub(earlier.starved),
            blocked: self.blocked.saturating_sub(earlier.blocked),
            cpu: self.cpu.saturating_sub(earlier.cpu),
            items: self.items.saturating_sub(earlier.items),
        }
    }
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    clock(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// CPU time of the whole process.
pub fn process_cpu() -> Duration {
    clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn clock(id: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec; an unknown clock (a thread that ended) leaves it at zero.
    unsafe { libc::clock_gettime(id, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time of all threads that carry the calling thread's name. A thread that libtorch's OpenMP runtime starts inherits the name of
/// the one that started it, so this is the cost of an inference thread together with its helpers.
#[derive(Debug, Default)]
pub struct NamedThreads {
    ids: Vec<i32>,
    reads: u32,
}

/// Reads between two looks at the list of threads. The team of helpers changes only at the start: the first call makes it.
const READS_PER_SCAN: u32 = 64;

impl NamedThreads {
    /// Their CPU time so far.
    pub fn cpu(&mut self) -> Duration {
        if self.reads % READS_PER_SCAN <= 1 {
            self.scan();
        }
        self.reads = self.reads.wrapping_add(1);
        // A thread's CPU clock id is its inverted id above three bits for "per thread, scheduler time" (clock_getcpuclockid(3)).
        self.ids.iter().map(|id| clock((!id << 3) | 0b110)).sum()
    }

    fn scan(&mut self) {
        let name = |path: &std::path::Path| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let own = name(std::path::Path::new("/proc/thread-self"));
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let mine = tasks.filter(|task| name(&task.path()) == own);
        self.ids = mine.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_the_same_name_are_counted_together() {
        let (cpu_both, cpu_own) = std::thread::Builder::new()
            .name("twins".into())
            .spawn(|| {
                // An unnamed std thread would get no name; one named alike stands for what OpenMP inherits.
                let (done_tx, done_rx) = std::sync::mpsc::sync_channel::<()>(0);
                let (spun_tx, spun_rx) = std::sync::mpsc::sync_channel::<()>(0);
                let helper = std::thread::Builder::new().name("twins".into()).spawn(move || {
                    let end = thread_cpu() + Duration::from_millis(20);
                    while thread_cpu() < end {
                        std::hint::spin_loop();
                    }
                    spun_tx.send(()).expect("sends");
                    done_rx.recv().expect("receives");
                });
                spun_rx.recv().expect("receives");
                let all = NamedThreads::default().cpu();
                done_tx.send(()).expect("sends");
                helper.expect("starts").join().expect("joins");
                (all, thread_cpu())
            })
            .expect("starts")
            .join()
            .expect("joins");
        assert!(cpu_both >= cpu_own + Duration::from_millis(15), "{cpu_both:?} {cpu_own:?}");
    }

    #[test]
    fn shares_sum_to_one_and_follow_the_state() {
        let meter = Meter::new("test");
        meter.enter(State::Busy);
        let end = Instant::now() + Duration::from_millis(5);
        while Instant::now() < end {
            std::hint::spin_loop();
        }
        meter.enter(State::Blocked);
        let reading = meter.read();
        let ratios = reading.ratios();
        assert!((ratios.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(ratios[0] > 0.5 && reading.busy >= Duration::from_millis(5), "{reading:?}");
    }
}
