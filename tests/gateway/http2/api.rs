//! An API that speaks only HTTP/2 over TLS, and tells what it read.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::{smuggling::upstream::Respond, tls::authority::Issued};

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
}

impl Http2Api {
    /// Publishes this key set. With `breaks_off` every other answer is reset in mid-body.
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
        let shared = Arc::new(Shared { jwks, breaks_off, respond: Mutex::default(), received: Mutex::default() });
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, acceptor.clone(), Arc::clone(&serving)));
            }
        });
        Self { address, shared }
    }

    /// Answers each whole request by its own content from now on.
    pub fn respond_with(&self, respond: Respond) {
        *self.shared.respond.lock().unwrap() = Some(respond);
    }

    /// Takes what was received, requests for keys left out.
    pub fn received(&self) -> Vec<(Request<()>, Vec<u8>)> {
        std::mem::take(&mut *self.shared.received.lock().unwrap())
    }
}

async fn converse(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond, Arc::clone(&shared)));
    }
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, shared: Arc<Shared>) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        // A request that breaks off is not received.
        let Ok(chunk) = chunk else { return };
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    let keys = head.uri.path().contains("/jwk");
    let breaks_off = shared.breaks_off && !keys;
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let answer = shared
        .respond
        .lock()
        .unwrap()
        .as_ref()
        .filter(|_| !keys)
        .map(|respond| respond(&target, &String::from_utf8_lossy(&bytes)));
    if !keys {
        shared.received.lock().unwrap().push((Request::from_parts(head, ()), bytes));
    }
    let (status, text) = answer.unwrap_or_else(|| (200, if keys { shared.jwks.clone() } else { "{}".to_owned() }));
    let response = Response::builder().status(status).body(()).unwrap();
    // The gateway may have given the stream up.
    let Ok(mut send) = respond.send_response(response, false) else { return };
    let _ = send.send_data(text.into(), !breaks_off);
    if breaks_off {
        // Time for the first bytes to be on their way before the stream ends.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        send.send_reset(Reason::INTERNAL_ERROR);
    }
}
