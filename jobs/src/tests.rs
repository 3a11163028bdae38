//! Jobs against the broker in the process.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use crate::*;
use polars::prelude::*;
use serde_json::json;
use spawn_core::Modality;
use spawn_kafka::{EmbeddedBroker, Producer, ProducerConfig};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("spawn-jobs-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn topics() -> BTreeMap<Modality, String> {
    Modality::ALL.into_iter().map(|m| (m, format!("jobs.{m}"))).collect()
}

async fn run(path: &Path, change: impl FnOnce(&mut IngestOptions)) -> (IngestReport, u64) {
    let names: Vec<String> = topics().into_values().collect();
    let broker = EmbeddedBroker::start(&names, 2).unwrap();
    let producer = Producer::new(ProducerConfig::new(&broker.brokers(), &BTreeMap::new())).unwrap();
    let mut options = IngestOptions {
        path: path.to_owned(),
        topics: topics(),
        file_roots: Vec::new(),
        modality: None,
        limit: None,
        dry_run: false,
    };
    change(&mut options);
    let report = ingest(options, &producer, |_| {}).await.unwrap();
    let mut stored = 0;
    for topic in &names {
        let ends = spawn_kafka::end_offsets(&broker.brokers(), &BTreeMap::new(), topic).await.unwrap();
        stored += ends.values().sum::<i64>() as u64;
    }
    (report, stored)
}

#[test]
fn media_are_told_by_content_and_else_by_name() {
    for (name, head, expected) in [
        ("a.JPG", &b""[..], Some(Modality::Image)),
        ("x", b"\xff\xd8\xff\xe0", Some(Modality::Image)),
        ("x", b"RIFF\0\0\0\0WAVEfmt ", Some(Modality::Audio)),
        ("x", b"RIFF\0\0\0\0WEBPVP8 ", Some(Modality::Image)),
        ("x", b"\0\0\0\x20ftypM4A ", Some(Modality::Audio)),
        ("x", b"\0\0\0\x20ftypavif", Some(Modality::Image)),
        ("x", b"FORM\0\0\0\0AIFF", Some(Modality::Audio)),
        ("x", b"\x1a\x45\xdf\xa3", Some(Modality::Audio)),
        ("wrong.txt", b"\x89PNG\r\n", Some(Modality::Image)),
        ("x", b"BM\x8a", Some(Modality::Image)),
        ("cars.txt", b"BMW", Some(Modality::Text)),
        ("x", "Grüße".as_bytes(), Some(Modality::Text)),
        ("x", b"\0\x01\x02", None),
        ("x", b"", None),
    ] {
        assert_eq!(modality_of(Path::new(name), head), expected, "{name} {head:?}");
    }
}

#[test]
fn large_files_travel_as_references_and_ids_follow_the_content() {
    let folder = Folder::new("media");
    folder.write("ä b.txt", b"small");
    folder.write("big.jpg", &vec![7; 600 * 1024]);
    let roots = [folder.0.clone()];
    let file = |name: &str, m, roots: &[PathBuf]| {
        message_for_file(&folder.0.join(name), m, "t", Default::default(), roots)
    };
    let message = |name: &str, m| file(name, m, &roots).unwrap();
    let small = message("ä b.txt", Modality::Text);
    assert_eq!(small.value.as_deref(), Some(&b"small"[..]));
    let subject = small.headers.iter().find(|(k, _)| k == "ce_subject").unwrap().1.clone();
    assert!(String::from_utf8_lossy(&subject).ends_with("/%C3%A4%20b.txt"));
    let big = message("big.jpg", Modality::Image);
    assert!(big.value.unwrap().is_empty() && big.headers.iter().any(|(k, _)| k == "ce_dataref"));
    let inside = file("big.jpg", Modality::Image, &[]).unwrap();
    assert_eq!(inside.value.unwrap().len(), 600 * 1024, "no worker may read the file: it goes itself");
    folder.write("huge.jpg", &vec![7; 16 << 20]);
    let error = file("huge.jpg", Modality::Image, &[]).unwrap_err();
    assert!(error.to_string().contains("fetch.file_roots"), "{error}");
    assert!(file("huge.jpg", Modality::Image, &roots).is_ok());
    assert_eq!(message("ä b.txt", Modality::Text).key, small.key);
    folder.write("ä b.txt", b"other");
    assert_ne!(message("ä b.txt", Modality::Text).key, small.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_sent_whole_and_what_is_no_media_is_counted() {
    let folder = Folder::new("folder");
    folder.write("a.txt", b"one");
    folder.write("sub/deep/b.txt", b"two");
    folder.write("c.bin", &[0, 1, 2]);
    std::os::unix::fs::symlink(&folder.0, folder.0.join("loop")).unwrap();
    let (report, stored) = run(&folder.0, |_| {}).await;
    assert_eq!(report.progress, Progress { seen: 3, sent: 2, skipped: 1, failed: 0, bytes: 6 });
    assert_eq!(stored, 2);
    let (dry, stored) = run(&folder.0, |o| o.dry_run = true).await;
    assert_eq!((dry.progress.sent, stored), (2, 0));
    let (limited, stored) = run(&folder.0, |o| o.limit = Some(1)).await;
    assert_eq!((limited.progress.sent, stored), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_sent_and_its_bad_rows_are_named() {
    let folder = Folder::new("manifest");
    folder.write("a.txt", b"one");
    folder.write(
        "m.csv",
        b"path,text,uri,modality,id,price\na.txt,,,,,7\n,hello,,,x,8\n,,https://h/p.jpg?w=80#top,,,\nmissing.txt,,,,,\na.txt,both,,,,\n,q,,video,,\n\
          /dev/zero,,,text,,\n,,https://h/p,,,\n",
    );
    let (report, stored) = run(&folder.0.join("m.csv"), |_| {}).await;
    assert_eq!((report.progress.sent, report.progress.failed, stored), (3, 5, 3));
    let numbers: Vec<u64> = report.failures.iter().map(|f| f.0).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8]);
    for (failure, word) in
        report.failures[2..].iter().zip(["video", "no regular file", "add a column `modality`"])
    {
        assert!(failure.1.contains(word), "{failure:?}");
    }
}

/// What a manifest says, row by row; a row that cannot be read as its error.
fn listed(path: &Path) -> Vec<Result<Item, String>> {
    let mut items = Vec::new();
    manifest::read(path, |item| {
        items.push(item);
        true
    })
    .unwrap();
    items
}

#[test]
fn quoted_empty_cells_are_none() {
    let folder = Folder::new("quoted");
    folder.write("m.csv", b"\"path\",\"text\",\"uri\",\"id\",\"modality\"\n\"\",\"hello\",\"\",\"\",\"\"\n");
    let item = listed(&folder.0.join("m.csv")).remove(0).unwrap();
    assert_eq!((item.origin, item.id, item.modality), (Origin::Text("hello".into()), None, None));
}

#[test]
fn parquet_cells_keep_their_values_whatever_their_type() {
    let folder = Folder::new("parquet");
    let path = folder.0.join("m.parquet");
    let tags = |words: &[&str]| Series::new("".into(), words);
    let price = Series::new("price".into(), ["1.50", "2.25"]).cast(&DataType::Decimal(10, 2)).unwrap();
    let day = Series::new("day".into(), [0i32, 1]).cast(&DataType::Date).unwrap();
    let size = df!("width" => [640i64, 800], "name" => ["a", "b"]).unwrap().into_struct("size".into());
    let mut frame = df!(
        // What pandas makes of whole numbers with a gap.
        "id" => [Some(1_234_567_890.0), Some(1_234_512_345.0)],
        "text" => [&b"bytes without a kind"[..], b"others"],
        "level" => [3i8, -4],
        "tags" => [tags(&["a", "b", "c", "d", "e"]), tags(&[])],
    )
    .unwrap();
    for column in [price.into_column(), day.into_column(), size.into_column()] {
        frame.with_column(column).unwrap();
    }
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut frame).unwrap();
    let items: Vec<Item> = listed(&path).into_iter().map(Result::unwrap).collect();
    assert_eq!(items[0].id.as_deref(), Some("1234567890"));
    assert_eq!(items[1].id.as_deref(), Some("1234512345"));
    assert_eq!(items[0].origin, Origin::Text("bytes without a kind".into()));
    let expected = json!({
        "level": 3, "tags": ["a", "b", "c", "d", "e"], "price": "1.50", "day": "1970-01-01",
        "size": {"width": 640, "name": "a"},
    });
    assert_eq!(serde_json::Value::from(items[0].metadata.clone()), expected);

    let mut broken = df!("id" => [0.5, 1e300], "text" => ["a", "b"]).unwrap();
    ParquetWriter::new(std::fs::File::create(&path).unwrap()).finish(&mut broken).unwrap();
    for row in listed(&path) {
        assert!(row.unwrap_err().contains("column id"), "no two numbers may become one id");
    }
}

#[test]
fn ids_made_here_are_short_and_tell_nothing_of_a_link() {
    let item = |uri: String| Item {
        origin: Origin::Uri(uri),
        modality: None,
        media_type: None,
        id: None,
        metadata: Default::default(),
    };
    let id = |uri: &str| {
        let (_, message) = message_for_item(&item(uri.into()), Modality::Image, "t", &[]).unwrap();
        String::from_utf8(message.headers.iter().find(|(name, _)| name == "ce_id").unwrap().1.to_vec())
            .unwrap()
    };
    let long = format!("https://user:secret@host/a.jpg?signature={}", "x".repeat(1500));
    assert!(id(&long).len() <= 64 && !id(&long).contains("secret"), "{}", id(&long));
    assert_eq!(id(&long), id(&long));
    assert_ne!(id(&long), id("https://host/a.jpg"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_without_a_known_column_is_refused() {
    let folder = Folder::new("columns");
    folder.write("m.csv", b"file,size\na,1\n");
    let broker = EmbeddedBroker::start(&["jobs.text".to_owned()], 1).unwrap();
    let producer = Producer::new(ProducerConfig::new(&broker.brokers(), &BTreeMap::new())).unwrap();
    let options = IngestOptions {
        path: folder.0.join("m.csv"),
        topics: topics(),
        file_roots: Vec::new(),
        modality: None,
        limit: None,
        dry_run: false,
    };
    let error = ingest(options, &producer, |_| {}).await.unwrap_err();
    assert!(error.to_string().contains("path, uri or text"), "{error}");
}
