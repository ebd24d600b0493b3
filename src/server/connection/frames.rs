//! What a client does with HTTP/2, frame by frame, before the library sees it.
//!
//! Owns the bounds that the library has not: requests that are begun only to be cancelled
//! (CVE-2023-44487; the library bounds only those it has not handed on yet), and frames that make the
//! gateway work or answer without asking for anything. Reads the nine bytes at the head of each
//! frame (RFC 9113, 4.1) and nothing else; the library decodes, checks and answers.

use std::time::Instant;

/// What begins an HTTP/2 connection (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes at the head of each frame.
const HEAD: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Requests that a client may cancel whatever else it does; beyond, at most half of those it began.
const FREE_CANCELLATIONS: u64 = 200;
/// Frames at a time that carry neither a request nor a part of one: settings, pings, priorities,
/// empty data, frames of no known type.
const IDLE_FRAMES: f64 = 1000.0;
/// How many of them are forgiven each second.
const FORGIVEN_A_SECOND: f64 = 200.0;

/// A client asks for much and wants nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flood;

/// Whether the client owes the rest of something that comes before a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owed {
    /// Nothing: between frames, or in the middle of a body.
    Nothing,
    /// The rest of what it was owing before.
    Same,
    /// The rest of something that began just now.
    Anew,
}

/// Where a client's side of an HTTP/2 connection is.
#[derive(Debug)]
pub(super) struct Frames {
    preface_left: usize,
    head: [u8; HEAD],
    head_filled: usize,
    payload_left: usize,
    is_body: bool,
    block_open: bool,
    /// Whether a first request's head has arrived.
    asked: bool,
    last_stream: u32,
    requests: u64,
    cancellations: u64,
    idle_frames: f64,
    counted_at: Instant,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            preface_left: PREFACE.len(),
            head: [0; HEAD],
            head_filled: 0,
            payload_left: 0,
            is_body: false,
            block_open: false,
            asked: false,
            last_stream: 0,
            requests: 0,
            cancellations: 0,
            idle_frames: 0.0,
            counted_at: Instant::now(),
        }
    }

    /// Follows what the client sent.
    ///
    /// # Errors
    /// [`Flood`] when the bounds are reached.
    pub(super) fn follow(&mut self, mut bytes: &[u8]) -> Result<Owed, Flood> {
        let mut passed_a_frame = false;
        self.preface_left -= skip(&mut bytes, self.preface_left);
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                self.payload_left -= skip(&mut bytes, self.payload_left);
            } else {
                let part = &bytes[..bytes.len().min(HEAD - self.head_filled)];
                self.head[self.head_filled..self.head_filled + part.len()].copy_from_slice(part);
                self.head_filled += part.len();
                bytes = &bytes[part.len()..];
                if self.head_filled < HEAD {
                    break;
                }
                self.head_filled = 0;
                self.count()?;
            }
            passed_a_frame |= self.payload_left == 0;
        }
        let in_frame = self.head_filled > 0 || (self.payload_left > 0 && !self.is_body);
        Ok(match (self.asked && !in_frame && !self.block_open, self.asked && passed_a_frame && !self.block_open) {
            (true, _) => Owed::Nothing,
            (false, false) => Owed::Same,
            (false, true) => Owed::Anew,
        })
    }

    /// Counts the frame whose head is complete.
    fn count(&mut self) -> Result<(), Flood> {
        let [high, middle, low, kind, flags, stream @ ..] = self.head;
        self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.is_body = kind == DATA;
        match kind {
            HEADERS | CONTINUATION => {
                self.block_open = flags & END_HEADERS == 0;
                self.asked |= !self.block_open;
                // Each request has a stream of its own; the same stream's second block are trailers.
                let stream = u32::from_be_bytes(stream);
                self.requests += u64::from(stream > self.last_stream);
                self.last_stream = self.last_stream.max(stream);
            }
            RST_STREAM => {
                self.cancellations += 1;
                if self.cancellations > FREE_CANCELLATIONS && self.cancellations * 2 > self.requests {
                    return Err(Flood);
                }
            }
            DATA if self.payload_left > 0 || flags & END_STREAM != 0 => {}
            // Its number follows that of the answers' parts, and it costs next to nothing.
            WINDOW_UPDATE => {}
            _ => {
                let now = Instant::now();
                let forgiven = (now - self.counted_at).as_secs_f64() * FORGIVEN_A_SECOND;
                self.counted_at = now;
                self.idle_frames = (self.idle_frames - forgiven).max(0.0) + 1.0;
                if self.idle_frames > IDLE_FRAMES {
                    return Err(Flood);
                }
            }
        }
        Ok(())
    }
}

/// Passes over at most `count` bytes and says how many there were.
fn skip(bytes: &mut &[u8], count: usize) -> usize {
    let skipped = count.min(bytes.len());
    *bytes = &bytes[skipped..];
    skipped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETTINGS: u8 = 0x4;
    const PING: u8 = 0x6;

    fn frame(kind: u8, flags: u8, length: usize) -> Vec<u8> {
        frame_of(kind, flags, length, 1)
    }

    fn frame_of(kind: u8, flags: u8, length: usize, stream: u32) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD + length, 0);
        frame
    }

    fn connected() -> Frames {
        let mut frames = Frames::new();
        assert_eq!(frames.follow(PREFACE), Ok(Owed::Same));
        assert_eq!(frames.follow(&frame(SETTINGS, 0, 12)), Ok(Owed::Same), "no request has come yet");
        assert_eq!(frames.follow(&frame(HEADERS, END_HEADERS, 30)), Ok(Owed::Nothing));
        frames
    }

    #[test]
    fn how_the_bytes_are_cut_makes_no_difference() {
        let all = [
            PREFACE.to_vec(),
            frame(SETTINGS, 0, 18),
            frame(HEADERS, 0, 40),
            frame(CONTINUATION, END_HEADERS, 40),
            frame(DATA, 0, 70_000),
            frame(DATA, END_STREAM, 0),
            frame(RST_STREAM, 0, 4),
        ]
        .concat();
        for size in [1, 2, 7, 9, 10, 4096, all.len()] {
            let mut frames = Frames::new();
            let last = all.chunks(size).map(|chunk| frames.follow(chunk).unwrap()).last();
            assert_eq!(last, Some(Owed::Nothing), "{size}");
            assert_eq!((frames.requests, frames.cancellations), (1, 1), "{size}");
        }
    }

    #[test]
    fn the_rest_of_a_head_is_owed_and_that_of_a_body_is_not() {
        let mut frames = connected();
        assert_eq!(frames.follow(&frame(DATA, 0, 100)[..50]), Ok(Owed::Nothing));
        assert_eq!(frames.follow(&[0; 59]), Ok(Owed::Nothing));
        let head = frame(HEADERS, 0, 20);
        assert_eq!(frames.follow(&head[..5]), Ok(Owed::Same), "since the clock was last set");
        assert_eq!(frames.follow(&head[5..]), Ok(Owed::Same), "the block is open");
        assert_eq!(frames.follow(&frame(CONTINUATION, 0, 20)), Ok(Owed::Same), "still the same head");
        assert_eq!(frames.follow(&frame(CONTINUATION, END_HEADERS, 1)), Ok(Owed::Nothing));
        let two = [frame(PING, 0, 8), frame(PING, 0, 8)].concat();
        assert_eq!(frames.follow(&two[..20]), Ok(Owed::Anew), "one frame ended, another began");
        assert_eq!(frames.follow(&two[20..]), Ok(Owed::Nothing));
    }

    #[test]
    fn who_cancels_most_of_what_they_begin_is_a_flood() {
        let begun = |stream| frame_of(HEADERS, END_HEADERS, 30, stream);
        let mut frames = connected();
        let floods = (1..=1000).find(|number| {
            let trailers = begun(number * 2 + 1);
            frames.follow(&[begun(number * 2 + 1), trailers, frame(RST_STREAM, 0, 4)].concat()) == Err(Flood)
        });
        assert_eq!(floods, Some(201));

        let mut frames = connected();
        for number in (3..60_000).step_by(6) {
            let three = [begun(number), begun(number + 2), begun(number + 4), frame(RST_STREAM, 0, 4)].concat();
            assert!(frames.follow(&three).is_ok(), "one of three is no flood");
        }
    }

    #[test]
    fn frames_that_ask_for_nothing_are_a_flood() {
        for idle in [frame(PING, 0, 8), frame(SETTINGS, 0, 0), frame(DATA, 0, 0), frame(0x2, 0, 5), frame(0x77, 0, 0)] {
            let mut frames = connected();
            let floods = (1..=2000).find(|_| frames.follow(&idle) == Err(Flood));
            assert!(floods.is_some_and(|count| count >= 999), "{floods:?}");
        }
        for used in [frame(DATA, 0, 1), frame(DATA, END_STREAM, 0), frame(WINDOW_UPDATE, 0, 4)] {
            let mut frames = connected();
            assert!((0..100_000).all(|_| frames.follow(&used).is_ok()));
        }
    }

    proptest! {
        #[test]
        fn nonsense_is_followed_to_its_end(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1_usize..20) {
            let (mut whole, mut pieces) = (Frames::new(), Frames::new());
            let mut last = Ok(Owed::Same);
            for piece in [PREFACE, &bytes].concat().chunks(cut) {
                last = pieces.follow(piece);
            }
            let at_once = whole.follow(&[PREFACE, &bytes].concat());
            prop_assert_eq!(at_once == Ok(Owed::Nothing), last == Ok(Owed::Nothing));
            prop_assert_eq!((whole.payload_left, whole.requests), (pieces.payload_left, pieces.requests));
        }
    }
}
