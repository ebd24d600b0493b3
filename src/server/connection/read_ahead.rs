//! Bytes of a connection that Pingora may not read yet: its first bytes, and pipelined HTTP/1.1 requests.
//!
//! The buffer is empty while a connection is idle. It holds at most [`MAX_PIPELINED_BYTES`] and one read.

use std::{
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    task::{Context, Poll, ready},
};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, BufWriter, ReadBuf};

/// Maximum bytes of one read: Pingora reads as much of a head at a time.
const MAX_READ_BYTES: usize = 4096;
/// Maximum bytes of pipelined requests that are kept.
const MAX_PIPELINED_BYTES: usize = 16 * 1024;

/// The socket, or TLS over it.
pub(super) type ClientStream = BufWriter<Stream>;

/// The bytes that were read ahead of Pingora.
#[derive(Default)]
pub(super) struct ReadAhead(Vec<u8>);

impl ReadAhead {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether enough has been read while the current request is being served.
    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= MAX_READ_BYTES
    }

    /// Reads once and returns whether any bytes arrived.
    pub(super) fn poll_fill(&mut self, io: &mut ClientStream, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        poll_read_once(io, context, |bytes| self.0.extend_from_slice(bytes))
    }

    /// Removes empty lines, which some clients send after a body (RFC 9112, 2.2).
    pub(super) fn skip_empty_lines(&mut self) {
        let empty_lines = self.0.chunks(2).take_while(|pair| *pair == b"\r\n").count();
        self.0.drain(..2 * empty_lines);
    }

    /// Moves as many bytes as fit into `buffer`.
    pub(super) fn move_into(&mut self, buffer: &mut ReadBuf<'_>) {
        let bytes = mem::take(&mut self.0);
        let (now, later) = bytes.split_at(bytes.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.0 = later.to_vec();
    }

    /// Puts the bytes of the next requests before the others. If they are too many, drops them and returns false.
    pub(super) fn put_back(&mut self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= MAX_PIPELINED_BYTES;
        if fits {
            self.0.splice(..0, bytes.iter().copied());
        }
        fits
    }
}

/// Discards input until the client closes the connection or the connection fails.
pub(super) fn poll_discard(io: &mut ClientStream, context: &mut Context<'_>) -> Poll<()> {
    while ready!(poll_read_once(io, context, |_| {})).unwrap_or(false) {}
    Poll::Ready(())
}

/// Reads once and returns whether any bytes arrived. The buffer is on the stack, because a buffer in the future would live as
/// long as the connection.
fn poll_read_once(
    io: &mut ClientStream,
    context: &mut Context<'_>,
    keep: impl FnOnce(&[u8]),
) -> Poll<io::Result<bool>> {
    let mut buffer = [const { MaybeUninit::uninit() }; MAX_READ_BYTES];
    let mut read = ReadBuf::uninit(&mut buffer);
    ready!(Pin::new(io).poll_read(context, &mut read))?;
    keep(read.filled());
    Poll::Ready(Ok(!read.filled().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipelined_bytes_are_kept_in_order_up_to_the_limit() {
        let mut ahead = ReadAhead(b"later".to_vec());
        assert!(ahead.put_back(b"first "));
        let mut room = [0; 8];
        let mut buffer = ReadBuf::new(&mut room);
        ahead.move_into(&mut buffer);
        assert_eq!((buffer.filled(), ahead.bytes()), (&b"first la"[..], &b"ter"[..]));
        assert!(!ahead.put_back(&[0; MAX_PIPELINED_BYTES + 1]));
        assert_eq!(ahead.bytes(), b"ter");
    }

    #[test]
    fn empty_lines_are_skipped_and_partial_ones_kept() {
        for (bytes, rest) in [("\r\n\r\nGET", "GET"), ("\r\n\r", "\r"), ("\n\r\n", "\n\r\n"), ("", "")] {
            let mut ahead = ReadAhead(bytes.as_bytes().to_vec());
            ahead.skip_empty_lines();
            assert_eq!(ahead.bytes(), rest.as_bytes(), "{bytes:?}");
        }
    }
}
