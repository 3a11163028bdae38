//! The broker's release.
//!
//! The protocol does not tell it, and the client library has no call for what comes closest: the features that a broker names in its answer
//! to `ApiVersions` (KIP-584). The newest `metadata.version` that it supports belongs to one release of Apache Kafka. So this one question is
//! asked by hand, on a plain connection; with TLS or SASL, and of brokers that name no features, the release stays unknown.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for one broker.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// Largest answer that is read; real ones have about 1 KiB.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// `ApiVersions` version 3: the first with features.
const REQUEST: [u8; 25] = *b"\x00\x12\x00\x03\x00\x00\x00\x01\x00\x05spawn\x00\x06spawn\x020\x00";
/// Newest `metadata.version` level of each release (`MetadataVersion` of Apache Kafka).
const RELEASES: [(i16, &str); 9] = [
    (7, "3.3"),
    (8, "3.4"),
    (11, "3.5"),
    (14, "3.6"),
    (19, "3.7"),
    (20, "3.8"),
    (21, "3.9"),
    (25, "4.0"),
    (27, "4.1"),
];

/// The release of the first broker that answers, such as `4.1`; `None` where it cannot be told.
pub async fn broker_version(brokers: &str, properties: &BTreeMap<String, String>) -> Option<String> {
    let protocol = properties.get("security.protocol").map_or("plaintext", String::as_str);
    if !protocol.eq_ignore_ascii_case("plaintext") {
        return None;
    }
    for broker in brokers.split(',').map(str::trim) {
        let address = broker.strip_prefix("PLAINTEXT://").unwrap_or(broker);
        if let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_MAX, ask(address)).await {
            return metadata_level(&answer).map(release);
        }
    }
    None
}

async fn ask(address: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&(REQUEST.len() as u32).to_be_bytes()).await?;
    stream.write_all(&REQUEST).await?;
    let bytes = stream.read_u32().await? as usize;
    if bytes > ANSWER_BYTES_MAX {
        return Err(std::io::Error::other("the answer is too long"));
    }
    let mut answer = vec![0; bytes];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

fn release(level: i16) -> String {
    match RELEASES.iter().find(|(newest, _)| level <= *newest) {
        Some((_, release)) => (*release).to_owned(),
        None => format!("newer than {}", RELEASES[RELEASES.len() - 1].1),
    }
}

/// The highest supported level of the feature `metadata.version` in an answer.
fn metadata_level(answer: &[u8]) -> Option<i16> {
    let mut rest = Rest(answer);
    let _correlation = rest.take(4)?;
    if rest.int16()? != 0 {
        return None;
    }
    for _ in 1..rest.varint()? {
        rest.take(6)?; // key, lowest and highest version
        rest.skip_tags()?;
    }
    let _throttle = rest.take(4)?;
    for _ in 0..rest.varint()? {
        let (tag, bytes) = (rest.varint()?, rest.varint()?);
        let mut field = Rest(rest.take(bytes)?);
        if tag != 0 {
            continue;
        }
        for _ in 1..field.varint()? {
            let name_bytes = field.varint()?.checked_sub(1)?;
            let name = field.take(name_bytes)?;
            let (_lowest, highest) = (field.int16()?, field.int16()?);
            field.skip_tags()?;
            if name == b"metadata.version" {
                return Some(highest);
            }
        }
    }
    None
}

/// What is left of an answer. Arrays and texts have their length plus one before them, as a varint.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(head)
    }

    fn int16(&mut self) -> Option<i16> {
        self.take(2).map(|b| i16::from_be_bytes([b[0], b[1]]))
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0;
        for shift in (0..32).step_by(7) {
            let byte = self.take(1)?[0];
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn skip_tags(&mut self) -> Option<()> {
        for _ in 0..self.varint()? {
            let (_tag, bytes) = (self.varint()?, self.varint()?);
            self.take(bytes)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two keys, then the features `group.version` 0 to 1 and `metadata.version` 7 to 27.
    const ANSWER: &[u8] = b"\0\0\0\x01\0\0\x03\0\0\0\0\0\x0c\0\0\x01\0\0\0\x11\0\0\0\0\0\x01\0\x2a\x03\
        \x0egroup.version\0\0\0\x01\0\x11metadata.version\0\x07\0\x1b\0";

    #[test]
    fn the_release_follows_from_the_highest_metadata_version() {
        assert_eq!(metadata_level(ANSWER), Some(27));
        assert_eq!(
            [27, 26, 21, 1, 99].map(release),
            ["4.1", "4.1", "3.9", "3.3", "newer than 4.1"].map(str::to_owned)
        );
    }

    #[test]
    fn a_broken_answer_says_nothing_and_breaks_nothing() {
        (0..ANSWER.len()).for_each(|end| assert_eq!(metadata_level(&ANSWER[..end]), None, "{end}"));
        for at in 0..ANSWER.len() {
            let mut broken = ANSWER.to_vec();
            broken[at] = 0xff;
            let _level = metadata_level(&broken);
        }
    }
}
