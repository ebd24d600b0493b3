//! An API that accepts only HTTP/2 over TLS and records the requests.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Method, Request, Response};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use crate::{smuggling::upstream::Respond, tls::authority::Issued};

/// The signal of an API that it has not processed a request (RFC 9113, 8.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprocessed {
    /// It resets the stream with REFUSED_STREAM.
    RefusedStream,
    /// It closes the connection with a GOAWAY that names the stream before as the last.
    GoAway,
}

/// Listens until the test ends.
pub struct Http2Api {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    jwks: String,
    breaks_off: bool,
    respond: Mutex<Option<Respond>>,
    received: Mutex<Vec<(Request<()>, Vec<u8>)>>,
    /// The kind and number of refusals for the next requests.
    refuses: Mutex<Option<(Unprocessed, usize)>>,
}

impl Shared {
    fn refuses(&self, how: Unprocessed) -> bool {
        let mut refuses = self.refuses.lock().unwrap();
        match refuses.as_mut().filter(|(wanted, left)| *wanted == how && *left > 0) {
            Some((_, left)) => {
                *left -= 1;
                true
            }
            None => false,
        }
    }
}

impl Http2Api {
    /// Publishes this key set. With `breaks_off` every second response is reset within its body.
    pub async fn start(jwks: String, issued: &Issued, breaks_off: bool) -> Self {
        let chain = CertificateDer::pem_slice_iter(&fs::read(&issued.certificate).unwrap())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let key = PrivateKeyDer::from_pem_file(&issued.private_key).unwrap();
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            jwks,
            breaks_off,
            respond: Mutex::default(),
            received: Mutex::default(),
            refuses: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, acceptor.clone(), Arc::clone(&serving)));
            }
        });
        Self { address, shared }
    }

    /// From now on the response to each complete request depends on its content.
    pub fn respond_with(&self, respond: Respond) {
        *self.shared.respond.lock().unwrap() = Some(respond);
    }

    /// Refuses this many requests unprocessed from now on.
    pub fn refuse(&self, how: Unprocessed, count: usize) {
        *self.shared.refuses.lock().unwrap() = Some((how, count));
    }

    /// The number of requests still to be refused.
    pub fn left_to_refuse(&self) -> usize {
        self.shared.refuses.lock().unwrap().map_or(0, |(_, left)| left)
    }

    /// Takes the received requests, without requests for keys.
    pub fn received(&self) -> Vec<(Request<()>, Vec<u8>)> {
        std::mem::take(&mut *self.shared.received.lock().unwrap())
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let (inner, outer) = duplex(64 * 1024);
    tokio::spawn(relay(stream, outer, Arc::clone(&shared)));
    let Ok(mut connection) = h2::server::handshake(inner).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, Arc::clone(&shared)));
    }
}

/// Forwards bytes in both directions until a request must be refused by GOAWAY.
async fn relay(
    client: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    server: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    shared: Arc<Shared>,
) {
    let (mut from_client, to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let to_client = Arc::new(tokio::sync::Mutex::new(to_client));
    let back = Arc::clone(&to_client);
    let copying = tokio::spawn(async move {
        let mut bytes = [0; 16 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            if back.lock().await.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    });
    let mut preface = [0; 24];
    let Ok(_) = from_client.read_exact(&mut preface).await else { return };
    to_server.write_all(&preface).await.unwrap();
    let mut head = [0; 9];
    while from_client.read_exact(&mut head).await.is_ok() {
        let [_, first, second, kind, _, id @ ..] = head;
        let mut payload = vec![0; usize::from(first) << 8 | usize::from(second)];
        if from_client.read_exact(&mut payload).await.is_err() {
            return;
        }
        if kind == 1 && shared.refuses(Unprocessed::GoAway) {
            let last = (u32::from_be_bytes(id) - 2).to_be_bytes();
            let frame = [&[0, 0, 8, 7, 0, 0, 0, 0, 0][..], &last, &[0; 4]].concat();
            to_client.lock().await.write_all(&frame).await.unwrap();
            to_client.lock().await.flush().await.unwrap();
            // The gateway reads the frame before the end of the connection; nothing shows when it has.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            copying.abort();
            return;
        }
        if to_server.write_all(&[&head[..], &payload].concat()).await.is_err() {
            return;
        }
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: Arc<Shared>) {
    let (head, mut body) = request.into_parts();
    if !head.uri.path().contains("/jwk") && shared.refuses(Unprocessed::RefusedStream) {
        return respond.send_reset(Reason::REFUSED_STREAM);
    }
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        // A request that breaks off does not count as received.
        let Ok(chunk) = chunk else { return };
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    let keys = head.uri.path().contains("/jwk");
    let is_head = head.method == Method::HEAD;
    let breaks_off = shared.breaks_off && !keys;
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let answer = shared
        .respond
        .lock()
        .unwrap()
        .as_ref()
        .filter(|_| !keys)
        .map(|respond| respond(&target, &String::from_utf8_lossy(&bytes)));
    // The gateway probes the health of SLAS until it has keys.
    if !keys && !head.uri.path().ends_with("/userinfo") {
        shared.received.lock().unwrap().push((Request::from_parts(head, ()), bytes));
    }
    let (status, text) = answer.unwrap_or_else(|| (200, if keys { shared.jwks.clone() } else { "{}".to_owned() }));
    let response = Response::builder().status(status).body(()).unwrap();
    // The gateway may have reset the stream.
    let Ok(mut send) = respond.send_response(response, is_head) else { return };
    if is_head {
        return;
    }
    let _ = send.send_data(text.into(), !breaks_off);
    if breaks_off {
        // The first bytes are sent before the stream ends; nothing shows when they are.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        send.send_reset(Reason::INTERNAL_ERROR);
    }
}
