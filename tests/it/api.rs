//! The API's real job: what the line wrote, found again over HTTP by text, by media and by id.

use crate::world::{World, free_port, media};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

const BOUNDARY: &str = "a-line-that-is-in-no-file";

/// A server that is killed with the test.
struct Api {
    _server: crate::world::Worker,
    port: u16,
}

impl Api {
    fn start(world: &World) -> Self {
        let port = free_port();
        let mut command = world.command(&["api", "--set", &format!("api.listen=127.0.0.1:{port}")]);
        let server = crate::world::Worker(command.spawn().unwrap());
        world.wait("the API is ready", 60, || {
            crate::world::http_get(port, "/readyz").is_some_and(|(status, _)| status == 200)
        });
        Self { _server: server, port }
    }

    fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let length = body.len();
        write!(stream, "{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\n\r\n")
            .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}")))
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.ask("GET", path, "application/json", b"")
    }

    fn search(&self, body: &Value) -> Value {
        let (status, found) = self.ask("POST", "/search", "application/json", body.to_string().as_bytes());
        assert_eq!(status, 200, "{found}");
        found
    }

    /// As a browser's form would send it.
    fn upload(&self, file: &Path, media_type: &str) -> Value {
        let (status, found) = self.upload_bytes(&std::fs::read(file).unwrap(), media_type);
        assert_eq!(status, 200, "{found}");
        found
    }

    fn upload_bytes(&self, bytes: &[u8], media_type: &str) -> (u16, Value) {
        let mut body = format!(
            "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"x\"\r\ncontent-type: {media_type}\r\n\r\n"
        )
        .into_bytes();
        body.extend(bytes);
        body.extend(format!("\r\n--{BOUNDARY}--\r\n").bytes());
        self.ask("POST", "/search", &format!("multipart/form-data; boundary={BOUNDARY}"), &body)
    }
}

fn hits(found: &Value) -> Vec<&str> {
    found["hits"].as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect()
}

#[test]
fn what_the_line_wrote_is_found_over_http() {
    let world = World::new("api");
    let (images, sounds, texts) = (media("images", 5), media("audio", 4), media("text", 4));
    let files: Vec<&str> = images.iter().chain(&sounds).chain(&texts).map(|p| p.to_str().unwrap()).collect();
    let sent = world.json(&[&["submit"], &files[..]].concat());
    assert_eq!(world.worker(&["--exit-at-end"]).end(120), Some(0), "{}", world.log());
    let id = |i: usize| sent[i]["id"].as_str().unwrap();
    let api = Api::start(&world);

    // Each way of asking finds the item itself first, as the command line does.
    let by_id = api.search(&json!({"id": id(0), "limit": 3}));
    let told = &world.json(&["search", id(0), "--limit", "3"])[0];
    assert_eq!(hits(&by_id), hits(told));
    assert_eq!(hits(&by_id).len(), 3);
    assert_eq!(hits(&api.upload(&images[1], "image/jpeg"))[0], id(1));
    assert_eq!(hits(&api.upload(&sounds[2], "audio/flac"))[0], id(5 + 2));
    assert_eq!(hits(&api.upload(&sounds[1], "image/png"))[0], id(5 + 1), "the content decides");
    let (status, problem) = api.upload_bytes(b"\0\x01\x02 nothing known", "application/octet-stream");
    assert_eq!((status, &problem["code"]), (422, &"decode.unsupported".into()), "{problem}");
    let words = std::fs::read_to_string(&texts[3]).unwrap();
    let by_words = api.search(&json!({"text": words, "limit": 2}));
    assert_eq!(hits(&by_words)[0], id(9 + 3));

    // All results, three at a time.
    let (mut seen, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let (status, page) = api.get(&format!("/results?limit=3{cursor}"));
        assert_eq!(status, 200, "{page}");
        for result in page["results"].as_array().unwrap() {
            assert!(seen.insert(result["id"].as_str().unwrap().to_owned()), "{} came twice", result["id"]);
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(seen, sent.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect());
    assert_eq!(seen.len() as i64, world.count("SELECT count(*) FROM spawn.result"));

    let (status, result) = api.get(&format!("/results/{}", id(0)));
    assert_eq!((status, result["id"].as_str()), (200, Some(id(0))));
    let top = world.sql(&format!(
        "SELECT labels->0->>'name' FROM spawn.result WHERE encode(substr(id_hash, 1, 16), 'hex') = '{}'",
        id(0)
    ));
    assert_eq!(result["labels"][0]["name"], top.as_str());
    for (path, wanted) in [("/results/nonsense", 400), ("/results/00000000000000000000000000000000", 404)] {
        let (status, problem) = api.get(path);
        assert_eq!(status, wanted, "{problem}");
        assert!(problem["code"].is_string() && problem["trace_id"].is_string(), "{problem}");
    }
}
