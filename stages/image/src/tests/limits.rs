//! What is refused, by which code, and that it is refused on the header.

use super::{fixture, good_pictures, media, prepare, square, stage};
use crate::{ImageStage, Limits};
use spawn_core::{Media, Stage};

fn code(bytes: Vec<u8>) -> String {
    let mut stage = stage(square());
    let rejection = prepare(&mut stage, bytes).expect_err("it was accepted");
    assert_eq!(rejection.stage, "prepare");
    prepare(&mut stage, fixture("photo.jpg")).expect("a refused record leaves the stage usable");
    rejection.code.into_owned()
}

#[test]
fn what_ends_early_is_truncated() {
    for name in [
        "truncated-photo.jpg",
        "truncated-progressive.jpg",
        "no-end.jpg",
        "truncated-rgb.png",
        "truncated-lossy.webp",
        "truncated-lossless.webp",
        "truncated-still.gif",
        "truncated-rgb.bmp",
        "truncated-lzw.tif",
    ] {
        assert_eq!(code(fixture(name)), "decode.truncated", "{name}");
    }
}

#[test]
fn headers_that_end_early_are_truncated() {
    for name in ["photo.jpg", "rgb.png", "lossy.webp", "still.gif", "rgb.bmp", "lzw.tif"] {
        assert_eq!(code(fixture(name)[..20].to_vec()), "decode.truncated", "{name}");
    }
}

#[test]
fn damage_is_malformed() {
    assert_eq!(code(fixture("damaged.jpg")), "decode.malformed");
    let mut png = fixture("rgb.png");
    let middle = png.len() / 2;
    png[middle] ^= 0xff;
    assert_eq!(code(png), "decode.malformed");
    assert_eq!(code(b"\xff\xd8\xff\xd9".to_vec()), "decode.malformed");
}

#[test]
fn nothing_is_empty() {
    assert_eq!(code(Vec::new()), "payload.empty");
}

#[test]
fn other_content_is_named() {
    let mut stage = stage(square());
    for (bytes, name) in [
        (&b"\0\0\0\x18ftypavif\0\0\0\0"[..], "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\xff\x0a1234", "JPEG XL"),
        (b"%PDF-1.7", "PDF"),
        (b"<svg xmlns=", "SVG"),
        (b"hello", "no known picture format"),
    ] {
        let media = Media::new(bytes.to_vec().into(), Some("image/png".into()));
        let rejection = stage.process(&media).unwrap_err();
        assert_eq!(rejection.code, "decode.unsupported");
        assert!(rejection.detail.contains(name) && rejection.detail.contains("image/png"), "{rejection}");
    }
}

#[test]
fn the_declared_type_does_not_matter() {
    let mut stage = stage(square());
    let media = Media::new(fixture("rgb.png").into(), Some("image/jpeg".into()));
    assert_eq!(stage.process(&media).unwrap().facts.media_type, "image/png");
}

#[test]
fn twelve_bit_jpegs_are_unsupported() {
    let mut bytes = fixture("grey.jpg");
    let at = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[at + 4] = 12;
    assert_eq!(code(bytes), "decode.unsupported");
}

#[test]
fn bombs_are_refused_on_the_header() {
    let stage = stage(square());
    for name in ["bomb.png", "bomb.gif", "bomb.jpg"] {
        let rejection = stage.footprint(&media(fixture(name))).unwrap_err();
        assert_eq!(rejection.code, "limit.pixels", "{name}: {rejection}");
    }
}

#[test]
fn limits_hold_exactly() {
    for name in good_pictures() {
        let bytes = fixture(&name);
        let facts = prepare(&mut stage(square()), bytes.clone()).unwrap().facts;
        let pixels = u64::from(facts.width.unwrap()) * u64::from(facts.height.unwrap());
        let fitting = Limits { bytes_max: bytes.len(), pixels_max: pixels };
        let stage = |limits| ImageStage::new(square(), limits).unwrap();
        prepare(&mut stage(fitting), bytes.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let less = Limits { pixels_max: pixels - 1, ..fitting };
        let rejection = stage(less).footprint(&media(bytes.clone())).unwrap_err();
        assert_eq!(rejection.code, "limit.pixels", "{name}");
        let less = Limits { bytes_max: bytes.len() - 1, ..fitting };
        let rejection = stage(less).footprint(&media(bytes)).unwrap_err();
        assert_eq!(rejection.code, "limit.bytes", "{name}");
    }
}
