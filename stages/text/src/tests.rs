//! The stage on texts of every kind; token ids against those of the Python library.

#![allow(clippy::unwrap_used)]
use crate::{Config, Limits, TextStage};
use bytes::Bytes;
use spawn_core::{ArrayData, Features, Media, Prepared, Rejection, Stage};

const TOKENIZER: &[u8] = include_bytes!("../fixtures/tokenizer.json");
const REFERENCE: &str = include_str!("../fixtures/reference.json");
/// `[CLS]` and `[SEP]` of the fixture.
const SPECIAL: (i64, i64) = (2, 3);

fn stage(tokens_max: usize, overlap: usize, chunks_max: usize) -> TextStage {
    let limits = Limits { bytes_max: 4096, tokens_max: 60 };
    TextStage::from_bytes(Config { tokens_max, overlap, chunks_max }, limits, TOKENIZER).unwrap()
}

fn media(bytes: &[u8]) -> Media {
    Media::new(Bytes::copy_from_slice(bytes), None)
}

fn process(stage: &mut TextStage, bytes: &[u8]) -> Result<Prepared, Rejection> {
    let stage: &mut dyn Stage = stage;
    stage.check_and_process(&media(bytes))
}

fn refused(bytes: &[u8]) -> Rejection {
    process(&mut stage(64, 8, 4), bytes).unwrap_err()
}

fn ids(features: &Features) -> &[i64] {
    let [ids, mask] = &features.arrays[..] else { panic!("two inputs") };
    assert_eq!((ids.name, mask.name), ("ids", "mask"));
    let (ArrayData::I64(ids_data), ArrayData::I64(mask_data)) = (&ids.data, &mask.data) else {
        panic!("i64")
    };
    assert_eq!((&ids.shape, &mask.shape), (&vec![ids_data.len()], &vec![ids_data.len()]));
    assert!(mask_data.iter().all(|m| *m == 1));
    ids_data
}

#[test]
fn token_ids_equal_those_of_the_reference_library() {
    let reference: Vec<serde_json::Value> = serde_json::from_str(REFERENCE).unwrap();
    assert!(reference.len() >= 10);
    let mut stage = stage(512, 0, 1);
    for row in reference {
        let want: Vec<i64> = row["ids"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
        let prepared = process(&mut stage, row["text"].as_str().unwrap().as_bytes()).unwrap();
        assert_eq!(prepared.chunks.len(), 1);
        assert_eq!(ids(&prepared.chunks[0]), want, "{}", row["text"]);
        assert_eq!(prepared.facts.tokens, Some(want.len() as u32 - 2));
        assert!(prepared.facts.chunk_starts.is_empty());
        assert_eq!(prepared.facts.media_type, "text/plain");
    }
}

#[test]
fn chunks_overlap_and_together_hold_every_token() {
    let text = "one two three four five six seven eight nine ten eleven twelve".repeat(2);
    let whole = process(&mut stage(512, 0, 1), text.as_bytes()).unwrap();
    let whole = ids(&whole.chunks[0]);
    let content = &whole[1..whole.len() - 1];
    for (tokens_max, overlap) in
        [(10, 3), (7, 0), (6, 3), (3, 0), (content.len() + 2, 1), (content.len() + 1, 1)]
    {
        let prepared = process(&mut stage(tokens_max, overlap, 1000), text.as_bytes()).unwrap();
        let mut seen: Vec<i64> = Vec::new();
        for (i, chunk) in prepared.chunks.iter().enumerate() {
            let chunk = ids(chunk);
            assert!(chunk.len() <= tokens_max);
            assert_eq!((chunk[0], chunk[chunk.len() - 1]), SPECIAL);
            let body = &chunk[1..chunk.len() - 1];
            if i > 0 {
                assert_eq!(prepared.facts.chunk_starts[i], (seen.len() - overlap) as f64);
                assert_eq!(seen[seen.len() - overlap..], body[..overlap], "{tokens_max} {overlap}");
                assert!(body.len() > overlap, "a chunk of nothing but overlap");
                seen.extend(&body[overlap..]);
            } else {
                seen.extend(body);
            }
        }
        assert_eq!(seen, content, "{tokens_max} {overlap}");
        assert_eq!(prepared.facts.tokens, Some(content.len() as u32));
        assert!(prepared.facts.flags.is_empty());
    }
}

#[test]
fn what_lies_beyond_the_last_chunk_is_left_out_and_said() {
    let prepared = process(&mut stage(6, 1, 2), b"one two three four five six seven eight nine ten").unwrap();
    assert_eq!(prepared.chunks.len(), 2);
    assert_eq!(prepared.facts.flags, ["truncated"]);
    assert_eq!(prepared.facts.tokens, Some(7));
    assert_eq!(prepared.facts.chunk_starts, [0.0, 3.0]);
}

#[test]
fn a_byte_order_mark_and_nuls_are_stripped() {
    let mut stage = stage(64, 0, 1);
    let plain = process(&mut stage, b"a cat").unwrap();
    let bom = process(&mut stage, b"\xef\xbb\xbfa cat").unwrap();
    let nul = process(&mut stage, b"a\0 cat\0").unwrap();
    assert_eq!(plain.chunks, bom.chunks);
    assert_eq!(plain.chunks, nul.chunks);
    assert!(plain.facts.flags.is_empty() && bom.facts.flags.is_empty());
    assert_eq!(nul.facts.flags, ["nul_stripped"]);
}

#[test]
fn what_is_no_utf8_is_refused_with_the_place() {
    for (bytes, says) in [
        (&b"\xff\xfea\0 \0"[..], "UTF-16"),
        (b"\xfe\xff\0a\0 ", "UTF-16"),
        (b"caf\xe9 au lait", "at byte 3 of 12 there is the byte 0xe9"),
        (b"cut \xe2\x82", "cut off at the end"),
        (b"\x89PNG\r\n\x1a\n", "0x89"),
    ] {
        let rejection = refused(bytes);
        assert_eq!((rejection.stage, &*rejection.code), ("prepare", "text.not_utf8"));
        assert!(rejection.detail.contains(says), "{}", rejection.detail);
    }
}

#[test]
fn nothing_but_white_space_is_refused() {
    for bytes in [&b" \n\t"[..], b"\xef\xbb\xbf", b"\0\0", "\u{a0}\u{2003}".as_bytes(), b"\x01\x02"] {
        assert_eq!(refused(bytes).code, "text.empty", "{bytes:?}");
    }
}

#[test]
fn limits_are_checked_by_bytes_before_and_by_tokens_after() {
    let rejection = refused(&[b'a'; 4097]);
    assert_eq!(rejection.code, "limit.bytes");
    assert!(rejection.detail.contains("4097") && rejection.detail.contains("4096"));
    let rejection = refused("cat ".repeat(61).as_bytes());
    assert_eq!(rejection.code, "limit.tokens");
    assert!(rejection.detail.contains("more than 60 tokens"), "{}", rejection.detail);
    assert!(process(&mut stage(64, 8, 4), "cat ".repeat(60).as_bytes()).is_ok());
}

#[test]
fn the_footprint_grows_with_the_bytes() {
    let stage = stage(64, 8, 4);
    let (small, large) =
        (stage.footprint(&media(b"a")).unwrap(), stage.footprint(&media(&[b'a'; 4096])).unwrap());
    assert!(small >= 64 * 16 && large >= 4096 * 400 && small < large);
}

#[test]
fn a_text_of_many_pieces_has_the_ids_of_the_whole() {
    let mut whole = tokenizers::Tokenizer::from_bytes(TOKENIZER).unwrap();
    whole.with_padding(None);
    whole.with_truncation(None).unwrap();
    let limits = Limits { bytes_max: 1 << 20, tokens_max: 1 << 20 };
    let config = Config { tokens_max: 8192, overlap: 0, chunks_max: 1000 };
    let mut stage = TextStage::from_bytes(config, limits, TOKENIZER).unwrap();
    // The second has no white space to cut at: each of its characters is a word, three bytes long.
    for text in ["kitten wall\u{a0}stra\u{df}e resting on ".repeat(7000), "\u{6771}".repeat(100_001)] {
        let prepared = process(&mut stage, text.as_bytes()).unwrap();
        let have: Vec<i64> = prepared
            .chunks
            .iter()
            .flat_map(|chunk| ids(chunk)[1..].split_last().unwrap().1)
            .copied()
            .collect();
        let want = whole.encode_fast(text, false).unwrap();
        assert!(have.iter().copied().eq(want.get_ids().iter().map(|id| i64::from(*id))));
        assert_eq!(prepared.facts.tokens, Some(want.len() as u32));
    }
}

#[test]
fn a_text_beyond_the_limit_is_not_read_to_its_end() {
    let encoder = crate::encode::Encoder::new(TOKENIZER).unwrap();
    let text = "cat ".repeat(100_000);
    assert_eq!(encoder.ids(&text, usize::MAX).unwrap().len(), 100_000);
    assert!((11..50_000).contains(&encoder.ids(&text, 10).unwrap().len()));
}

#[test]
fn the_spec_names_whatever_changes_the_ids() {
    let limits = Limits { bytes_max: 1, tokens_max: 1 };
    let base = Config { tokens_max: 64, overlap: 8, chunks_max: 4 };
    let spec = |config: &Config, json: &[u8]| {
        TextStage::from_bytes(config.clone(), limits, json).unwrap().spec().to_owned()
    };
    let changed =
        String::from_utf8(TOKENIZER.to_vec()).unwrap().replace("\"lowercase\":true", "\"lowercase\":false");
    assert_ne!(changed.as_bytes(), TOKENIZER);
    let all = [
        spec(&base, TOKENIZER),
        spec(&Config { tokens_max: 65, ..base.clone() }, TOKENIZER),
        spec(&Config { overlap: 9, ..base.clone() }, TOKENIZER),
        spec(&Config { chunks_max: 5, ..base.clone() }, TOKENIZER),
        spec(&base, changed.as_bytes()),
    ];
    let different: std::collections::BTreeSet<_> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
    assert_eq!(stage(64, 8, 4).spec(), all[0], "limits refuse records, they do not change vectors");
    assert_eq!(stage(64, 8, 4).fork().spec(), all[0]);
}

#[test]
fn a_config_that_cannot_work_is_refused() {
    let limits = Limits { bytes_max: 1, tokens_max: 1 };
    for (config, says) in [
        (Config { tokens_max: 2, overlap: 0, chunks_max: 1 }, "special tokens"),
        (Config { tokens_max: 10, overlap: 8, chunks_max: 1 }, "overlap"),
        (Config { tokens_max: 10, overlap: 2, chunks_max: 0 }, "chunks_max"),
        (Config { tokens_max: 100_000, overlap: 2, chunks_max: 1 }, "tokens_max"),
    ] {
        let error = TextStage::from_bytes(config, limits, TOKENIZER).err().unwrap();
        assert!(error.contains(says), "{error}");
    }
    let config = Config { tokens_max: 10, overlap: 2, chunks_max: 1 };
    assert!(TextStage::from_bytes(config.clone(), limits, b"{}").err().unwrap().contains("tokenizer.json"));
    let missing = TextStage::new(config, limits, "/nowhere/tokenizer.json".as_ref()).err().unwrap();
    assert!(missing.starts_with("/nowhere/tokenizer.json: "), "{missing}");
}
