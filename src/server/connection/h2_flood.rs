//! Detects floods of HTTP/2 frames before Pingora sees them.
//!
//! Two floods are detected: requests that are started only to be cancelled (CVE-2023-44487; `h2` limits only those that it has not
//! handed on), and control frames that cost work and request nothing. The tracker reads the nine bytes of each frame header
//! (RFC 9113, 4.1) and nothing else; `h2` decodes, checks and answers the frames.

use std::time::Instant;

/// The connection preface (RFC 9113, 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes of a frame header.
const FRAME_HEADER_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Cancelled requests that are always accepted. Above this, at most half of a connection's requests may be cancelled.
const CANCELLATION_ALLOWANCE: u64 = 200;
/// Burst of frames that are no part of a request: settings, pings, priorities, empty data, unknown types.
const MAX_CONTROL_FRAMES: f64 = 1000.0;
/// Accepted rate of these frames.
const CONTROL_FRAMES_PER_SECOND: f64 = 200.0;

/// The client's frames exceed the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FloodDetected;

/// Progress of a request's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadState {
    /// No head is pending: between frames, or inside a body.
    Complete,
    /// The head that was pending before is still incomplete.
    Pending,
    /// A new head started and is incomplete.
    Started,
}

/// Tracks the frames that a client sends on one connection.
#[derive(Debug)]
pub(super) struct H2FrameTracker {
    preface_left: usize,
    head: [u8; FRAME_HEADER_BYTES],
    head_filled: usize,
    payload_left: usize,
    is_body: bool,
    is_block_open: bool,
    /// Whether the first request's head has arrived.
    has_request: bool,
    last_stream: u32,
    requests: u64,
    cancellations: u64,
    control_frames: f64,
    refilled_at: Instant,
}

impl H2FrameTracker {
    pub(super) fn new() -> Self {
        Self {
            preface_left: PREFACE.len(),
            head: [0; FRAME_HEADER_BYTES],
            head_filled: 0,
            payload_left: 0,
            is_body: false,
            is_block_open: false,
            has_request: false,
            last_stream: 0,
            requests: 0,
            cancellations: 0,
            control_frames: 0.0,
            refilled_at: Instant::now(),
        }
    }

    /// Tracks the next bytes from the client.
    ///
    /// # Errors
    /// Returns [`FloodDetected`] if the frames exceed the limits.
    pub(super) fn track(&mut self, mut bytes: &[u8]) -> Result<HeadState, FloodDetected> {
        let mut passed_a_frame = false;
        self.preface_left -= skip(&mut bytes, self.preface_left);
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                self.payload_left -= skip(&mut bytes, self.payload_left);
            } else {
                let part = &bytes[..bytes.len().min(FRAME_HEADER_BYTES - self.head_filled)];
                self.head[self.head_filled..self.head_filled + part.len()].copy_from_slice(part);
                self.head_filled += part.len();
                bytes = &bytes[part.len()..];
                if self.head_filled < FRAME_HEADER_BYTES {
                    break;
                }
                self.head_filled = 0;
                self.count_frame()?;
            }
            passed_a_frame |= self.payload_left == 0;
        }
        let in_frame = self.head_filled > 0 || (self.payload_left > 0 && !self.is_body);
        Ok(
            match (
                self.has_request && !in_frame && !self.is_block_open,
                self.has_request && passed_a_frame && !self.is_block_open,
            ) {
                (true, _) => HeadState::Complete,
                (false, false) => HeadState::Pending,
                (false, true) => HeadState::Started,
            },
        )
    }

    /// Counts the frame whose header is complete.
    fn count_frame(&mut self) -> Result<(), FloodDetected> {
        let [high, middle, low, kind, flags, stream @ ..] = self.head;
        self.payload_left = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        self.is_body = kind == DATA;
        match kind {
            HEADERS | CONTINUATION => {
                self.is_block_open = flags & END_HEADERS == 0;
                self.has_request |= !self.is_block_open;
                // Each request has its own stream. A second header block on the same stream holds trailers.
                let stream = u32::from_be_bytes(stream);
                self.requests += u64::from(stream > self.last_stream);
                self.last_stream = self.last_stream.max(stream);
            }
            RST_STREAM => {
                self.cancellations += 1;
                if self.cancellations > CANCELLATION_ALLOWANCE && self.cancellations * 2 > self.requests {
                    return Err(FloodDetected);
                }
            }
            DATA if self.payload_left > 0 || flags & END_STREAM != 0 => {}
            // Window updates are cheap, and their number follows the size of the responses.
            WINDOW_UPDATE => {}
            _ => {
                let now = Instant::now();
                let refilled = (now - self.refilled_at).as_secs_f64() * CONTROL_FRAMES_PER_SECOND;
                self.refilled_at = now;
                self.control_frames = (self.control_frames - refilled).max(0.0) + 1.0;
                if self.control_frames > MAX_CONTROL_FRAMES {
                    return Err(FloodDetected);
                }
            }
        }
        Ok(())
    }
}

/// Skips at most `count` bytes and returns how many were skipped.
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
        frame.resize(FRAME_HEADER_BYTES + length, 0);
        frame
    }

    fn connected() -> H2FrameTracker {
        let mut frames = H2FrameTracker::new();
        assert_eq!(frames.track(PREFACE), Ok(HeadState::Pending));
        assert_eq!(frames.track(&frame(SETTINGS, 0, 12)), Ok(HeadState::Pending), "no request has come yet");
        assert_eq!(frames.track(&frame(HEADERS, END_HEADERS, 30)), Ok(HeadState::Complete));
        frames
    }

    #[test]
    fn frames_split_anywhere_are_tracked_alike() {
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
            let mut frames = H2FrameTracker::new();
            let last = all.chunks(size).map(|chunk| frames.track(chunk).unwrap()).last();
            assert_eq!(last, Some(HeadState::Complete), "{size}");
            assert_eq!((frames.requests, frames.cancellations), (1, 1), "{size}");
        }
    }

    #[test]
    fn incomplete_head_is_pending_and_incomplete_body_is_not() {
        let mut frames = connected();
        assert_eq!(frames.track(&frame(DATA, 0, 100)[..50]), Ok(HeadState::Complete));
        assert_eq!(frames.track(&[0; 59]), Ok(HeadState::Complete));
        let head = frame(HEADERS, 0, 20);
        assert_eq!(frames.track(&head[..5]), Ok(HeadState::Pending), "since the clock was last set");
        assert_eq!(frames.track(&head[5..]), Ok(HeadState::Pending), "the block is open");
        assert_eq!(frames.track(&frame(CONTINUATION, 0, 20)), Ok(HeadState::Pending), "still the same head");
        assert_eq!(frames.track(&frame(CONTINUATION, END_HEADERS, 1)), Ok(HeadState::Complete));
        let two = [frame(PING, 0, 8), frame(PING, 0, 8)].concat();
        assert_eq!(frames.track(&two[..20]), Ok(HeadState::Started), "one frame ended, another began");
        assert_eq!(frames.track(&two[20..]), Ok(HeadState::Complete));
    }

    #[test]
    fn cancelling_of_most_requests_is_a_flood() {
        let begun = |stream| frame_of(HEADERS, END_HEADERS, 30, stream);
        let mut frames = connected();
        let floods = (1..=1000).find(|number| {
            let trailers = begun(number * 2 + 1);
            frames.track(&[begun(number * 2 + 1), trailers, frame(RST_STREAM, 0, 4)].concat()) == Err(FloodDetected)
        });
        assert_eq!(floods, Some(201));

        let mut frames = connected();
        for number in (3..60_000).step_by(6) {
            let three = [begun(number), begun(number + 2), begun(number + 4), frame(RST_STREAM, 0, 4)].concat();
            assert!(frames.track(&three).is_ok(), "one of three is no flood");
        }
    }

    #[test]
    fn control_frames_above_the_rate_are_a_flood() {
        for idle in [frame(PING, 0, 8), frame(SETTINGS, 0, 0), frame(DATA, 0, 0), frame(0x2, 0, 5), frame(0x77, 0, 0)] {
            let mut frames = connected();
            let floods = (1..=2000).find(|_| frames.track(&idle) == Err(FloodDetected));
            assert!(floods.is_some_and(|count| count >= 999), "{floods:?}");
        }
        for used in [frame(DATA, 0, 1), frame(DATA, END_STREAM, 0), frame(WINDOW_UPDATE, 0, 4)] {
            let mut frames = connected();
            assert!((0..100_000).all(|_| frames.track(&used).is_ok()));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_tracked_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1_usize..20) {
            let (mut whole, mut pieces) = (H2FrameTracker::new(), H2FrameTracker::new());
            let mut last = Ok(HeadState::Pending);
            for piece in [PREFACE, &bytes].concat().chunks(cut) {
                last = pieces.track(piece);
            }
            let at_once = whole.track(&[PREFACE, &bytes].concat());
            prop_assert_eq!(at_once == Ok(HeadState::Complete), last == Ok(HeadState::Complete));
            prop_assert_eq!((whole.payload_left, whole.requests), (pieces.payload_left, pieces.requests));
        }
    }
}
