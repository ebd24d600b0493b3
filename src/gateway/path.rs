//! Parses a request's path, and rejects a path that two servers could read differently.
//!
//! Otherwise the gateway could authorize one operation while the API serves another. Nothing is repaired or normalized: an
//! accepted path is forwarded byte for byte, and the decoded text only serves decisions. A path that has a dot segment, a
//! backslash or a control character after any number of decodings is rejected. Only some parameters of operations may have an
//! encoded slash, so this file notes such slashes, and `policy` checks them.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// The reason why a path has more than one reading. The text never contains the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathError {
    /// The path is not in origin form.
    #[error("the path does not start with a slash")]
    NotAbsolute,
    /// The path has a double or trailing slash.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// The path has a segment `.` or `..`, maybe encoded.
    #[error("the path has a dot segment")]
    DotSegment,
    /// The path has a backslash, maybe encoded.
    #[error("the path has a backslash")]
    Backslash,
    /// The path has a control character, maybe encoded.
    #[error("the path has a control character")]
    ControlCharacter,
    /// The path has a semicolon, at which some servers begin path parameters.
    #[error("the path has an unencoded semicolon")]
    Semicolon,
    /// The path has a percent sign without two hexadecimal digits.
    #[error("the path has a malformed escape")]
    MalformedEscape,
    /// Decoded bytes are not UTF-8, or an overlong form of a character.
    #[error("the path has escaped bytes that are not UTF-8")]
    NotUtf8,
    /// The path has a raw character that RFC 3986 does not allow.
    #[error("the path has a character that must be escaped")]
    ForbiddenCharacter,
    /// The path has an escaped character that no encoder escapes.
    #[error("the path has an escaped character that needs no escape")]
    NeedlessEscape,
    /// The path has an escape where the operation's template has fixed text.
    #[error("the path has an escape in a fixed part")]
    EncodedLiteral,
    /// The path has an encoded slash outside of free text.
    #[error("the path has an encoded slash outside of free text")]
    EncodedSlash,
    /// With its encoded slashes decoded, the path is another operation's.
    #[error("the path with its encoded slashes decoded is another operation's")]
    SecondReading,
}

/// One segment of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<'a> {
    raw: &'a str,
    decoded: Cow<'a, str>,
    has_encoded_slash: bool,
}

impl<'a> Segment<'a> {
    /// The segment as received.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The segment, decoded once.
    #[must_use]
    pub fn decoded(&self) -> &str {
        &self.decoded
    }

    /// Whether the segment has a slash after one or more decodings.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.has_encoded_slash
    }

    /// Whether the segment has an escape.
    #[must_use]
    pub fn is_escaped(&self) -> bool {
        self.raw != self.decoded
    }

    /// The segment, decoded until no escape is left.
    pub(super) fn fully_decoded(&self) -> String {
        String::from_utf8_lossy(&decode_fully(self.raw)).into_owned()
    }

    fn parse(raw: &'a str) -> Result<Self, PathError> {
        let flags = SegmentFlags::scan(raw)?;
        if !flags.is_escaped {
            reject_dot_segment(raw.as_bytes())?;
            return Ok(Self { raw, decoded: Cow::Borrowed(raw), has_encoded_slash: false });
        }
        let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| PathError::NotUtf8)?;
        let fully_decoded = decode_fully(raw);
        reject_hidden(&fully_decoded)?;
        if flags.has_needless_escape {
            return Err(PathError::NeedlessEscape);
        }
        Ok(Self { raw, decoded, has_encoded_slash: fully_decoded.contains(&b'/') })
    }
}

/// Properties of a segment's raw bytes.
struct SegmentFlags {
    is_escaped: bool,
    has_needless_escape: bool,
}

impl SegmentFlags {
    fn scan(raw: &str) -> Result<Self, PathError> {
        let bytes = raw.as_bytes();
        let mut flags = Self { is_escaped: false, has_needless_escape: false };
        let mut position = 0;
        if bytes.is_empty() {
            return Err(PathError::EmptySegment);
        }
        while let Some(&byte) = bytes.get(position) {
            match byte {
                b'%' => {
                    let digits = (bytes.get(position + 1), bytes.get(position + 2));
                    let (Some(&high), Some(&low)) = digits else { return Err(PathError::MalformedEscape) };
                    let escaped = decode_escape(high, low).ok_or(PathError::MalformedEscape)?;
                    flags.is_escaped = true;
                    flags.has_needless_escape |= is_unreserved(escaped);
                    position += 2;
                }
                b';' => return Err(PathError::Semicolon),
                b'\\' => return Err(PathError::Backslash),
                0..0x20 | 0x7f => return Err(PathError::ControlCharacter),
                _ if is_unreserved(byte) || b"!$&'()*+,=:@".contains(&byte) => {}
                _ => return Err(PathError::ForbiddenCharacter),
            }
            position += 1;
        }
        Ok(flags)
    }
}

/// A request's path that has one reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath<'a> {
    raw: &'a str,
    segments: Vec<Segment<'a>>,
}

impl<'a> RequestPath<'a> {
    /// Parses the path of a request target, without its query. The path `/` has no segments.
    ///
    /// # Errors
    /// The reason why the path has more than one reading.
    pub fn parse(raw: &'a str) -> Result<Self, PathError> {
        let relative = raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if relative.is_empty() {
            return Ok(Self { raw, segments: Vec::new() });
        }
        let mut segments = Vec::with_capacity(16);
        for segment in relative.split('/') {
            segments.push(Segment::parse(segment)?);
        }
        Ok(Self { raw, segments })
    }

    /// The path as received.
    #[must_use]
    pub fn raw(&self) -> &'a str {
        self.raw
    }

    /// The segments, in order.
    #[must_use]
    pub fn segments(&self) -> &[Segment<'a>] {
        &self.segments
    }

    /// The path without a prefix such as `/mobify/slas/private`. `None` if the path is not below the prefix.
    #[must_use]
    pub fn without_prefix(&self, prefix: &str) -> Option<Self> {
        let raw = self.raw.strip_prefix(prefix)?;
        let depth = prefix.matches('/').count();
        raw.starts_with('/').then(|| Self { raw, segments: self.segments.get(depth..).unwrap_or_default().to_vec() })
    }
}

/// Rejects what one or more decodings reveal.
fn reject_hidden(decoded: &[u8]) -> Result<(), PathError> {
    if decoded.contains(&b'\\') {
        return Err(PathError::Backslash);
    }
    if decoded.iter().any(u8::is_ascii_control) || has_pair(decoded, 0xc2, 0x80..0xa0) {
        return Err(PathError::ControlCharacter);
    }
    // Lenient decoders read a dot or a slash from an overlong form of ASCII. Other bytes that are not UTF-8 are allowed: the
    // text `50%ab` is valid when its percent sign is escaped.
    let is_overlong = decoded.iter().any(|byte| matches!(byte, 0xc0 | 0xc1))
        || has_pair(decoded, 0xe0, 0x80..0xa0)
        || has_pair(decoded, 0xf0, 0x80..0x90);
    if is_overlong {
        return Err(PathError::NotUtf8);
    }
    decoded.split(|&byte| byte == b'/').try_for_each(reject_dot_segment)
}

/// Rejects `.` and `..`, with or without path parameters after them.
fn reject_dot_segment(segment: &[u8]) -> Result<(), PathError> {
    let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
    if matches!(name, b"." | b"..") { Err(PathError::DotSegment) } else { Ok(()) }
}

/// Decodes until no escape is left, in one pass. An escape has only one percent sign, so the order of decoding does not matter.
fn decode_fully(raw: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(raw.len());
    for byte in raw.bytes() {
        bytes.push(byte);
        while let [.., b'%', high, low] = bytes[..] {
            let Some(escaped) = decode_escape(high, low) else { break };
            bytes.truncate(bytes.len() - 3);
            bytes.push(escaped);
        }
    }
    bytes
}

/// The byte of two hexadecimal digits.
pub(super) fn decode_escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

fn has_pair(bytes: &[u8], first: u8, second: std::ops::Range<u8>) -> bool {
    bytes.windows(2).any(|pair| pair[0] == first && second.contains(&pair[1]))
}

/// Whether a character is unreserved (RFC 3986, 2.3), so that no encoder escapes it. `!*'()` are not among them: older encoders
/// escape these, and `encodeURIComponent` does not, so both forms are accepted.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

#[cfg(test)]
mod tests;
