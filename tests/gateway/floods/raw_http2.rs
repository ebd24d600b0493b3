//! An HTTP/2 client that writes any sequence of frames (RFC 9113), with header blocks as in RFC 7541 without
//! compression.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One end of a connection; received bytes are discarded.
pub struct RawHttp2Client {
    writer: OwnedWriteHalf,
    reading: JoinHandle<()>,
}

impl RawHttp2Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let (reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
        writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        Self { writer, reading: tokio::spawn(read_on(reader)) }
    }

    /// Sends frames. Returns whether the other end still accepts them.
    pub async fn send(&mut self, frames: &[u8]) -> bool {
        if self.reading.is_finished() {
            return false;
        }
        // A timeout means that the gateway does not read now; the connection is still open.
        let sent = tokio::time::timeout(Duration::from_millis(500), self.writer.write_all(frames)).await;
        !matches!(sent, Ok(Err(_)))
    }

    /// Whether the gateway closes the connection within a moment.
    pub async fn is_closed(&mut self) -> bool {
        tokio::time::timeout(Duration::from_millis(500), &mut self.reading).await.is_ok()
    }
}

async fn read_on(mut reader: OwnedReadHalf) {
    let mut buffer = vec![0; 65_536];
    while matches!(reader.read(&mut buffer).await, Ok(1..)) {}
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The head of a GET.
pub fn get(path: &str, token: &str) -> Vec<u8> {
    head(0x82, path, token)
}

/// The head of a POST.
pub fn post(path: &str, token: &str) -> Vec<u8> {
    head(0x83, path, token)
}

fn head(method: u8, path: &str, token: &str) -> Vec<u8> {
    // `:scheme: http` and, by indexes of the static table, `:path`, `:authority`, `authorization`.
    let mut head = vec![method, 0x86];
    for (name, value) in [(&[0x04][..], path), (&[0x01], "a"), (&[0x0f, 0x08], &format!("Bearer {token}"))] {
        head.extend(name);
        head.extend(integer(value.len()));
        head.extend(value.as_bytes());
    }
    head
}

/// A length of seven bits and more (RFC 7541, 5.1).
pub fn integer(value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if value < 127 {
        bytes.push(u8::try_from(value).unwrap());
        return bytes;
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}
