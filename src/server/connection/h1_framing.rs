//! Finds the end of an HTTP/1.1 request in its bytes as they arrive (RFC 9112, 6 and 7.1).
//!
//! Pingora gets the bytes of one request only, so that clients may pipeline. The tracker also finds what Pingora repairs or
//! accepts silently: invalid bytes in the request line, and lines of a chunked body that violate RFC 9112. Pingora and the
//! gateway check the rest of a head.

use std::mem;

use memchr::{memchr, memchr_iter};

/// Maximum bytes kept of one header: enough for `Transfer-Encoding`, or `Content-Length` and 20 digits.
const MAX_KEPT_FIELD_BYTES: usize = 80;
/// Maximum bytes of one line of a chunked body.
const MAX_CHUNK_LINE_BYTES: usize = 1024;
/// Maximum bytes of chunk extensions and trailers per request. The gateway drops them (RFC 9112, 7.1.1 and 7.1.2).
const MAX_DROPPED_FIELD_BYTES: usize = 8 * 1024;
/// Maximum digits of a chunk size: a 64-bit number.
const MAX_SIZE_DIGITS: usize = 16;

/// Tracks the bytes of one request.
#[derive(Debug)]
pub(super) struct RequestFraming {
    state: ParseState,
    /// The kept part of an incomplete line.
    line: Vec<u8>,
    /// Whether the line is longer than its kept part.
    is_line_cut: bool,
    spaces_of_request_line: usize,
    /// Whether the request line so far ends in a carriage return.
    ends_in_return: bool,
    is_request_line_irregular: bool,
    length: BodyLength,
    dropped_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParseState {
    /// Nothing has arrived, or empty lines (RFC 9112, 2.2).
    Start,
    RequestLine,
    Fields,
    /// Number of missing bytes of the body.
    Body(u64),
    ChunkSize,
    /// Number of missing bytes of the chunk.
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// The whole request has arrived.
    Complete,
    /// The length is ambiguous. The gateway rejects the request and closes the connection.
    Endless,
    /// The body violates chunked encoding.
    Malformed,
}

/// The length of the body, by the headers so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyLength {
    Bytes(u64),
    Chunked,
    Unclear,
}

impl RequestFraming {
    /// Starts before the first byte of a request.
    pub(super) fn new() -> Self {
        Self {
            state: ParseState::Start,
            line: Vec::new(),
            is_line_cut: false,
            spaces_of_request_line: 0,
            ends_in_return: false,
            is_request_line_irregular: false,
            length: BodyLength::Bytes(0),
            dropped_bytes: 0,
        }
    }

    /// Tracks the next bytes and returns how many of them belong to this request: all, unless the request is complete or malformed
    /// before their end.
    pub(super) fn track(&mut self, bytes: &[u8]) -> usize {
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = match self.state {
                ParseState::Complete | ParseState::Malformed => break,
                ParseState::Endless => rest.len(),
                ParseState::Body(left) => self.skip_body(left, rest.len(), ParseState::Body, ParseState::Complete),
                ParseState::Chunk(left) => self.skip_body(left, rest.len(), ParseState::Chunk, ParseState::ChunkEnd),
                ParseState::Start | ParseState::RequestLine => self.track_request_line(rest),
                ParseState::Fields | ParseState::ChunkSize | ParseState::ChunkEnd | ParseState::Trailers => {
                    self.track_line(rest)
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        bytes.len() - rest.len()
    }

    /// Whether the whole request has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.state == ParseState::Complete
    }

    /// Whether the body violates chunked encoding (RFC 9112, 7.1).
    pub(super) fn is_malformed(&self) -> bool {
        self.state == ParseState::Malformed
    }

    /// Whether the length is ambiguous. The gateway rejects the request and closes the connection.
    pub(super) fn is_endless(&self) -> bool {
        self.state == ParseState::Endless
    }

    /// Whether the request line has more than two spaces, a control character, or DEL. Pingora escapes these bytes silently.
    pub(super) fn is_request_line_irregular(&self) -> bool {
        self.is_request_line_irregular
    }

    fn skip_body(&mut self, left: u64, arrived: usize, more: fn(u64) -> ParseState, then: ParseState) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(arrived);
        let left = left - taken as u64;
        self.state = if left == 0 { then } else { more(left) };
        taken
    }

    fn track_request_line(&mut self, bytes: &[u8]) -> usize {
        let end = memchr(b'\n', bytes);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let visible = part.strip_suffix(b"\r").unwrap_or(part);
        self.spaces_of_request_line += memchr_iter(b' ', visible).count();
        let is_odd = |byte: &u8| *byte < b' ' || *byte == 0x7f;
        self.is_request_line_irregular |= visible.iter().any(is_odd) || self.spaces_of_request_line > 2;
        let has_inner_return = self.ends_in_return && !part.is_empty();
        self.is_request_line_irregular |= has_inner_return;
        self.ends_in_return = end.is_none() && (part.ends_with(b"\r") || self.ends_in_return && part.is_empty());
        if !visible.is_empty() || has_inner_return {
            self.state = ParseState::RequestLine;
        }
        let Some(end) = end else { return bytes.len() };
        if self.state == ParseState::RequestLine {
            self.state = ParseState::Fields;
        }
        end + 1
    }

    fn track_line(&mut self, bytes: &[u8]) -> usize {
        let room = if self.state == ParseState::Fields { MAX_KEPT_FIELD_BYTES } else { MAX_CHUNK_LINE_BYTES };
        let end = memchr(b'\n', bytes);
        let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
        let (kept, cut) = part.split_at(part.len().min(room.saturating_sub(self.line.len())));
        self.is_line_cut |= !cut.is_empty();
        if self.is_line_cut && self.state != ParseState::Fields {
            self.state = ParseState::Malformed;
        } else if end.is_some() && self.line.is_empty() {
            self.state = self.state_after_line(kept);
        } else {
            self.line.extend_from_slice(kept);
            if end.is_some() {
                let line = mem::take(&mut self.line);
                self.state = self.state_after_line(&line);
            }
        }
        end.map_or(bytes.len(), |end| end + 1)
    }

    /// The state after a line. The line has no line feed; a header may be cut.
    fn state_after_line(&mut self, line: &[u8]) -> ParseState {
        let is_cut = mem::take(&mut self.is_line_cut);
        let whole = line.strip_suffix(b"\r");
        match (self.state, whole) {
            (ParseState::Fields, _) if whole.unwrap_or(line).is_empty() => self.state_after_head(),
            (ParseState::Fields, _) => {
                self.length = self.length.with_header(whole.unwrap_or(line), is_cut);
                ParseState::Fields
            }
            (ParseState::ChunkSize, Some(line)) => self.state_after_chunk_size(line),
            (ParseState::ChunkEnd, Some(b"")) => ParseState::ChunkSize,
            (ParseState::Trailers, Some(b"")) => ParseState::Complete,
            (ParseState::Trailers, Some(field)) if is_field(field) && self.may_drop(field) => ParseState::Trailers,
            _ => ParseState::Malformed,
        }
    }

    fn state_after_head(&self) -> ParseState {
        match self.length {
            BodyLength::Bytes(0) => ParseState::Complete,
            BodyLength::Bytes(length) => ParseState::Body(length),
            BodyLength::Chunked => ParseState::ChunkSize,
            BodyLength::Unclear => ParseState::Endless,
        }
    }

    fn state_after_chunk_size(&mut self, line: &[u8]) -> ParseState {
        let (digits, extensions) = line.split_at(memchr(b';', line).unwrap_or(line.len()));
        let size = hexadecimal(digits).filter(|_| are_chunk_extensions(extensions) && self.may_drop(extensions));
        match size {
            None => ParseState::Malformed,
            Some(0) => ParseState::Trailers,
            Some(size) => ParseState::Chunk(size),
        }
    }

    fn may_drop(&mut self, unread: &[u8]) -> bool {
        self.dropped_bytes += unread.len();
        self.dropped_bytes <= MAX_DROPPED_FIELD_BYTES
    }
}

impl BodyLength {
    /// The length after one more header. Pingora rejects transfer codings other than chunked.
    fn with_header(self, field: &[u8], is_cut: bool) -> Self {
        let Some(colon) = memchr(b':', field) else { return self };
        let (name, value) = field.split_at(colon);
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Self::Chunked;
        }
        if !name.eq_ignore_ascii_case(b"content-length") {
            return self;
        }
        match (self, decimal(value.get(1..).unwrap_or_default())) {
            (Self::Chunked, _) => Self::Chunked,
            (Self::Bytes(0), Some(length)) if !is_cut => Self::Bytes(length),
            _ => Self::Unclear,
        }
    }
}

/// A number of digits only, perhaps with blanks around it.
fn decimal(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t']);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn hexadecimal(digits: &[u8]) -> Option<u64> {
    let are_digits = (1..=MAX_SIZE_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    u64::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| are_digits)?, 16).ok()
}

/// Whether the text is chunk extensions (RFC 9112, 7.1.1), without the optional blanks that senders must not write.
fn are_chunk_extensions(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some(extension) = rest.strip_prefix(b";") {
        let (name, after) = token(extension);
        if name.is_empty() {
            return false;
        }
        rest = match after.strip_prefix(b"=") {
            None => after,
            Some(value) if value.starts_with(b"\"") => match quoted_string(value) {
                Some(after) => after,
                None => return false,
            },
            Some(value) => match token(value) {
                (b"", _) => return false,
                (_, after) => after,
            },
        };
    }
    rest.is_empty()
}

/// Whether the line is a field line: a name, a colon and text (RFC 9112, 5).
fn is_field(line: &[u8]) -> bool {
    let (name, value) = token(line);
    !name.is_empty() && value.starts_with(b":") && value.iter().all(|byte| is_text(*byte))
}

/// Splits off the token at the start of a text (RFC 9110, 5.6.2).
fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    text.split_at(text.iter().position(|byte| !is_token(byte)).unwrap_or(text.len()))
}

/// The text after the quoted string at its start (RFC 9110, 5.6.4).
fn quoted_string(text: &[u8]) -> Option<&[u8]> {
    let mut escaped = false;
    for (index, &byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if !is_text(byte) => return None,
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return text.get(index + 1..),
            _ => {}
        }
    }
    None
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Parts of heads and chunks, valid and invalid.
    const WORDS: [&str; 28] = [
        "GET / HTTP/1.1\r\n",
        "POST /a b HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 12\r\n",
        "content-length:3\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length:                                                                            7\r\n",
        "\r\n",
        "\r",
        "\n",
        "\r\n\r\n",
        "0\r\n",
        "5\r\n",
        "a;b=c\r\n",
        ";",
        "\"",
        "hello",
        "0",
        "f",
        " ",
        "\t",
        ":",
        "X",
        "\0",
        "\u{e9}",
        "0\r\n\r\n",
        "3;a=\"\\\"\"\r\nabc\r\n",
        "x-long-field-name-x-long-field-name-x-long-field-name-x-long-field-name-x-long-field-name: 1\r\n",
    ];

    /// The end of the first request in `bytes`. Fails if the end depends on how the bytes are split.
    fn end(bytes: &[u8]) -> Option<usize> {
        let mut ends = Vec::new();
        for step in [1, 2, 3, 7, bytes.len()] {
            let mut framing = RequestFraming::new();
            let taken = bytes.chunks(step).map(|part| framing.track(part)).sum();
            ends.push(framing.is_complete().then_some(taken));
        }
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
        ends[0]
    }

    fn malformed_body(body: &str) -> bool {
        let whole = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let verdicts = [1, 2, 5, whole.len()].map(|step| {
            let mut framing = RequestFraming::new();
            for part in whole.as_bytes().chunks(step) {
                framing.track(part);
            }
            framing.is_malformed()
        });
        assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{body:?} {verdicts:?}");
        verdicts[0]
    }

    #[test]
    fn request_ends_at_its_framed_length() {
        for request in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\ncontent-length:\t 5 \r\n\r\n\r\n\r\n\r",
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
            "POST / HTTP/1.1\r\nX-Content-Length: 5\r\nContent-Length2: 7\r\n\r\n",
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n5\r\nhello\r\n000\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nA;a;b=c;d=\"e\\\" ;\"\r\n0123456789\r\n0;z\r\nX: y\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ] {
            for next in ["", "\r\n", "GET /next HTTP/1.1\r\n\r\n", "0\r\n\r\n"] {
                assert_eq!(end(format!("{request}{next}").as_bytes()), Some(request.len()), "{request:?} {next:?}");
            }
            assert_eq!(end(&request.as_bytes()[..request.len() - 1]), None, "{request:?}");
        }
    }

    proptest! {
        /// Packets may split the bytes anywhere.
        #[test]
        fn request_split_anywhere_has_the_same_end(
            words in vec(select(&WORDS[..]), 0..40),
            cuts in vec(1usize..9, 1..20),
        ) {
            let bytes = words.concat();
            let mut whole = RequestFraming::new();
            let expected = whole.track(bytes.as_bytes());
            let mut framing = RequestFraming::new();
            let (mut taken, mut rest) = (0, bytes.as_bytes());
            for cut in cuts.iter().cycle() {
                let (part, later) = rest.split_at((*cut).min(rest.len()));
                taken += framing.track(part);
                rest = later;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!((taken, framing.state), (expected, whole.state));
            prop_assert_eq!(framing.is_request_line_irregular, whole.is_request_line_irregular);
        }
    }

    #[test]
    fn request_with_ambiguous_length_has_no_end() {
        let blanks = " ".repeat(100);
        for length in ["Content-Length: x", "Content-Length: +5", "Content-Length: 5, 5", "Content-Length: -1"] {
            assert_eq!(end(format!("POST / HTTP/1.1\r\n{length}\r\n\r\n01234567").as_bytes()), None, "{length}");
        }
        for fields in ["Content-Length: 2\r\nContent-Length: 3", &format!("Content-Length:{blanks}5")] {
            assert_eq!(end(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n01234567").as_bytes()), None, "{fields}");
        }
    }

    #[test]
    fn chunk_line_outside_the_grammar_is_malformed() {
        for body in [
            "5;\r\n",
            "5 \r\n",
            " 5\r\n",
            "5\n",
            "5\r\r\n",
            "\r\n",
            ";a\r\n",
            "0x5\r\n",
            "+5\r\n",
            "-5\r\n",
            "g\r\n",
            "00000000000000005\r\n",
            "5 ;a\r\n",
            "5; a\r\n",
            "5;a =b\r\n",
            "5;a=\r\n",
            "5;=b\r\n",
            "5;a;\r\n",
            "5;a=b c\r\n",
            "5;a=\"b\r\n",
            "5;a=\"b\"c\r\n",
            "5;a\0\r\n",
            "5;a=\"\u{1}\"\r\n",
            "5;a=\"\\\u{7f}\"\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "0\r\nX\r\n\r\n",
            "0\r\nX : y\r\n\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\n\n",
        ] {
            assert!(malformed_body(body), "{body:?}");
        }
        for body in ["5\r\nhello\r\n0\r\n\r\n", "ffffffffffffffff\r\n", "0\r\nX:\r\nY: \t\u{e9}\r\n\r\n"] {
            assert!(!malformed_body(body), "{body:?}");
        }
    }

    #[test]
    fn chunk_extensions_and_trailers_share_one_limit() {
        let chunk = format!("1;{}\r\nx\r\n", "e".repeat(1000));
        assert!(!malformed_body(&chunk.repeat(8)));
        assert!(malformed_body(&chunk.repeat(9)));
        assert!(malformed_body(&format!("{}0\r\nX: {}\r\n\r\n", chunk.repeat(8), "t".repeat(300))));
        assert!(malformed_body(&format!("1;{}", "e".repeat(MAX_CHUNK_LINE_BYTES))), "before its end arrives");
        assert!(!malformed_body(&"1\r\nx\r\n".repeat(10_000)), "small chunks are no extensions");
    }

    #[test]
    fn request_line_with_invalid_bytes_is_irregular() {
        let irregular = |line: &str| {
            let verdicts = [1, 3, line.len()].map(|step| {
                let mut framing = RequestFraming::new();
                for part in line.as_bytes().chunks(step) {
                    framing.track(part);
                }
                framing.is_request_line_irregular()
            });
            assert!(verdicts.iter().all(|verdict| *verdict == verdicts[0]), "{line:?} {verdicts:?}");
            verdicts[0]
        };
        for line in
            ["GET /a b HTTP/1.1\r\n", "GET  /a HTTP/1.1\r\n", "GET /a\tb HTTP/1.1\r\n", "GET /\u{7f} HTTP/1.1\r\n"]
        {
            assert!(irregular(line), "{line:?}");
        }
        for line in ["GET /a%20b?c=\"d\" HTTP/1.1\r\nX: a b c\r\n\r\n", "\r\n\r\nGET / HTTP/1.1\r\n"] {
            assert!(!irregular(line), "{line:?}");
        }
    }
}
