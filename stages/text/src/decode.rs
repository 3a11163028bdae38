//! Bytes become text. Only UTF-8 is text here: guessing a legacy encoding would make vectors that nobody can explain.

use spawn_core::Rejection;
use std::borrow::Cow;

/// The text, and whether NULs were taken out of it: PostgreSQL has no NUL in text, and no tokenizer means anything by it.
pub(crate) fn decode(bytes: &[u8]) -> Result<(Cow<'_, str>, bool), Rejection> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let detail = "the text begins with a UTF-16 byte order mark; only UTF-8 is accepted, convert it with \
                      `iconv -f UTF-16 -t UTF-8`";
        return Err(Rejection::new("prepare", "text.not_utf8", detail));
    }
    let bytes = bytes.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(bytes);
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let found = match error.error_len() {
            None => "a character that is cut off at the end".to_owned(),
            Some(_) => format!("the byte 0x{:02x}", bytes[at]),
        };
        let detail = format!("only UTF-8 is accepted; at byte {at} of {} there is {found}", bytes.len());
        Rejection::new("prepare", "text.not_utf8", detail)
    })?;
    let nul = text.contains('\0');
    let text = if nul { Cow::Owned(text.replace('\0', "")) } else { Cow::Borrowed(text) };
    if text.chars().all(char::is_whitespace) {
        return Err(empty());
    }
    Ok((text, nul))
}

/// There is nothing to say a vector about.
pub(crate) fn empty() -> Rejection {
    Rejection::new("prepare", "text.empty", "the text has nothing but white space and control characters")
}
