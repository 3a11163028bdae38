//! The footprint against the memory that is really taken: an allocator that counts, for each thread on its own.

use super::{config, fixture, sine, wav};
use crate::{AudioStage, Config, Limits};
use bytes::Bytes;
use spawn_core::{Media, Stage};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

struct Counting;

fn count(bytes: isize) {
    // A thread that is ending has no counters any more; nobody asks for them either.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator as it is; counting touches two plain cells and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise about `pointer` and `layout` is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes held at once while `f` runs, beyond those held before.
fn peak_of(f: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    f();
    usize::try_from(PEAK.get() - before).unwrap()
}

fn check(name: &str, config: Config, file: Bytes) {
    let limits = Limits { bytes_max: 64 << 20, seconds_max: 120.0 };
    let mut stage = AudioStage::new(config, limits).unwrap();
    let media = Media::new(file, None);
    let reserved = stage.footprint(&media).unwrap();
    let held = peak_of(|| drop(stage.process(&media).unwrap()));
    assert!(held <= reserved, "{name}: {held} bytes held, {reserved} reserved");
}

#[test]
fn no_clip_takes_more_than_was_reserved() {
    let all = Config { windows_max: 10_000, hop_samples: 4_000, ..config() };
    for name in
        ["s16.flac", "s24-22k.flac", "lame.mp3", "aac.m4a", "aac.aac", "vorbis.ogg", "opus.ogg", "opus.webm"]
    {
        check(name, config(), fixture(name));
        check(name, all.clone(), fixture(name));
    }
    let pcm = |seconds: f64, rate: u32| -> Vec<u8> {
        sine(300.0, rate, seconds, 0.5).iter().flat_map(|x| ((x * 32_767.0) as i16).to_le_bytes()).collect()
    };
    for (name, rate, channels, seconds) in [
        ("a minute", 44_100, 1, 60.0),
        ("a minute at an odd rate", 44_099, 1, 60.0),
        ("a second at the highest rate", 383_999, 1, 1.0),
        ("eight channels", 48_000, 8, 80.0),
    ] {
        check(name, all.clone(), wav(1, 16, channels, rate, &pcm(seconds, rate)));
        check(name, config(), wav(1, 16, channels, rate, &pcm(seconds, rate)));
    }
    // Half a minute of MP3 frames without a count of them.
    let file = fixture("lame.mp3");
    let tag = file.windows(4).position(|w| w == b"Info" || w == b"Xing").unwrap();
    let first = tag + file[tag..].windows(2).position(|w| w == [0xff, 0xfb]).unwrap();
    check("unknown length", all, file[first..].repeat(90).into());
}
