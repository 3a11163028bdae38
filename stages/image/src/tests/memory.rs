//! The footprint is honest: what Rust allocates while a picture is prepared stays below it. (libjpeg's own rows are in C and
//! not counted here; the footprint adds them by formula.)

use super::{config, fixture, good_pictures, media, square, stage};
use spawn_core::Stage;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

/// Counts what this thread holds, and the most that it held.
struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

fn count(bytes: isize) {
    // The thread may be ending; then nobody asks any more.
    let _ = HELD.try_with(|held| {
        let (now, most) = held.get();
        held.set((now + bytes, most.max(now + bytes)));
    });
}

// SAFETY: hands every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new may exist side by side while they are copied.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// The most bytes held while `run` ran, beyond what was held before.
fn most_held<T>(run: impl FnOnce() -> T) -> (isize, T) {
    let before = HELD.with(|held| {
        let (now, _) = held.get();
        held.set((now, now));
        now
    });
    let done = run();
    (HELD.with(Cell::get).1 - before, done)
}

#[test]
fn footprints_cover_what_is_held() {
    let wide = config(serde_json::json!({ "width": 300, "height": 200, "fit": "pad", "filter": "lanczos3" }));
    for config in [square(), wide] {
        for name in good_pictures() {
            let mut stage = stage(config.clone());
            let media = media(fixture(&name));
            let footprint = stage.footprint(&media).unwrap();
            let (held, prepared) = most_held(|| stage.process(&media));
            prepared.unwrap();
            assert!(held as usize <= footprint, "{name}: held {held} of {footprint}");
            assert!(held > 1000, "{name}: nothing was counted");
        }
    }
}

/// Large pictures, where what grows with the pixels outweighs the constants.
#[test]
fn footprints_of_large_pictures_cover_what_is_held() {
    use image::{DynamicImage, ImageFormat, RgbaImage};
    let noise = |x: u32, y: u32| (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(40_503)).to_le_bytes();
    let rgba: DynamicImage = RgbaImage::from_fn(1200, 800, |x, y| image::Rgba(noise(x, y))).into();
    for (format, picture) in [
        (ImageFormat::Bmp, rgba.to_rgb8().into()),
        (ImageFormat::Gif, rgba.clone()),
        (ImageFormat::Jpeg, rgba.to_rgb8().into()),
        (ImageFormat::Png, DynamicImage::from(rgba.to_luma_alpha16())),
        (ImageFormat::Png, DynamicImage::from(rgba.to_rgba16())),
        (ImageFormat::Tiff, DynamicImage::from(rgba.to_rgb16())),
        (ImageFormat::WebP, rgba.clone()),
        (ImageFormat::WebP, rgba.to_rgb8().into()),
    ] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        DynamicImage::write_to(&picture, &mut bytes, format).unwrap();
        let limits = crate::Limits { bytes_max: 1 << 26, ..super::LIMITS };
        let mut stage = crate::ImageStage::new(square(), limits).unwrap();
        let media = media(bytes.into_inner());
        let footprint = stage.footprint(&media).unwrap();
        let (held, prepared) = most_held(|| stage.process(&media));
        prepared.unwrap();
        assert!(held as usize <= footprint, "{format:?}: held {held} of {footprint}");
    }
}

#[test]
fn asking_for_the_footprint_holds_next_to_nothing() {
    let stage = stage(square());
    for name in good_pictures() {
        let media = media(fixture(&name));
        let (held, _) = most_held(|| stage.footprint(&media).unwrap());
        assert!(held < 400_000, "{name}: {held}");
    }
}
