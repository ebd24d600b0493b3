//! An API whose responses a test writes byte by byte, at the times that it chooses.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

/// Listens until it is dropped. Requests for keys get the key set.
pub struct ScriptedApi {
    pub address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Exchange>,
    accepting: JoinHandle<()>,
}

/// A request whose head has arrived.
pub struct Exchange {
    pub head: String,
    /// The received part of its body, with its framing.
    pub body: Vec<u8>,
    pub stream: TcpStream,
}

impl ScriptedApi {
    pub async fn start(jwks: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hand_over, requests) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(receive(stream, jwks.clone(), hand_over.clone()));
            }
        });
        Self { address, requests, accepting }
    }

    pub async fn request(&mut self) -> Exchange {
        self.requests.recv().await.unwrap()
    }

    /// The number of further requests.
    pub fn further(&mut self) -> usize {
        std::iter::from_fn(|| self.requests.try_recv().ok()).count()
    }
}

impl Drop for ScriptedApi {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Exchange {
    pub async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until the body contains this text.
    pub async fn read_until(&mut self, wanted: &str) {
        while !String::from_utf8_lossy(&self.body).contains(wanted) {
            assert_ne!(self.stream.read_buf(&mut self.body).await.unwrap(), 0, "the request broke off");
        }
    }

    /// Closes with a reset instead of an end.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }
}

async fn receive(mut stream: TcpStream, jwks: String, hand_over: mpsc::UnboundedSender<Exchange>) {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if !stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
            return;
        }
    };
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    if head.contains("/jwk") {
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{jwks}", jwks.len());
        // The client may have closed the connection.
        let _ = stream.write_all(answer.as_bytes()).await;
        return;
    }
    // The test may have ended.
    let _ = hand_over.send(Exchange { head, body, stream });
}
