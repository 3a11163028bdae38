//! Counts what is allocated, by all threads. libtorch has an allocator of its own, which this does not see.

use std::alloc::{GlobalAlloc, Layout};
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Runs before counting: buffers that are kept have grown by then.
const WARM: u64 = 3;
/// Runs that are counted.
const COUNTED: u64 = 5;

static CALLS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

/// mimalloc, as in the product, and two counters.
pub(crate) struct Counting;

fn count(bytes: usize) {
    CALLS.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes as u64, Relaxed);
}

// SAFETY: every call goes to mimalloc as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are passed on.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { mimalloc::MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.saturating_sub(layout.size()));
        // SAFETY: the caller's promises are passed on.
        unsafe { mimalloc::MiMalloc.realloc(pointer, layout, size) }
    }
}

/// Appends a line to the file `SPAWN_ALLOCATIONS`: what `run`, which works on `items` of `bytes` each, allocates for an item.
pub(crate) fn tell(name: &str, items: u64, bytes: u64, mut run: impl FnMut()) {
    let Some(path) = std::env::var_os("SPAWN_ALLOCATIONS") else { return };
    (0..WARM).for_each(|_| run());
    let before = (CALLS.load(Relaxed), BYTES.load(Relaxed));
    (0..COUNTED).for_each(|_| run());
    let per_item =
        |now: &AtomicU64, before: u64| (now.load(Relaxed) - before) as f64 / (COUNTED * items) as f64;
    let line = serde_json::json!({
        "name": name, "item_bytes": bytes, "allocations": per_item(&CALLS, before.0), "allocated_bytes": per_item(&BYTES, before.1),
    });
    let mut file =
        OpenOptions::new().create(true).append(true).open(&path).expect("SPAWN_ALLOCATIONS can be written");
    writeln!(file, "{line}").expect("SPAWN_ALLOCATIONS can be written");
}
