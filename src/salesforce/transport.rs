//! The gateway's own calls to Salesforce over HTTP: bounded in time and size, verified, unredirected.
//!
//! Owns the client's settings. Redirects are never followed (SLAS answers logins by 303, and the
//! code is in its `Location`), nothing is retried, no proxy of the environment is used, and an answer
//! larger than [`MAX_ANSWER_BYTES`] is cut off unread.

use std::{path::Path, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use reqwest::{Certificate, Client, RequestBuilder, redirect::Policy};
use tracing::Instrument;

use crate::{metrics::Metrics, settings::Timeouts, spans, waiting};

/// Largest answer that is read, bytes. A token answer has about 4 KiB, a key set 2 KiB.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A connection pool to Salesforce's services.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client,
    metrics: Arc<Metrics>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What a call was for, as the metrics name it.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    /// `slas`, `account_manager` or `api`.
    pub service: &'static str,
    /// The flow, e.g. `refresh_token`.
    pub flow: &'static str,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection: refused, no such host, TLS not verified.
    #[error("no connection could be made")]
    Unreachable,
    /// The time for the exchange was over.
    #[error("the answer took too long")]
    Timeout,
    /// The connection broke, or what came was not HTTP.
    #[error("the answer broke off or was not HTTP")]
    Broken,
    /// More than [`MAX_ANSWER_BYTES`].
    #[error("the answer is too large")]
    TooLarge,
}

/// Why no client can be built.
#[derive(Debug, thiserror::Error)]
pub enum TransportSetupError {
    /// The file of authorities cannot be read.
    #[error("{path}: {source}")]
    AuthorityFile {
        /// The file.
        path: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file of authorities holds no certificate, or the TLS set-up failed.
    #[error("certificate authorities: {0}")]
    Tls(#[from] reqwest::Error),
}

impl Transport {
    /// A client that trusts the system's authorities, or only those of `authorities` (PEM) if given.
    ///
    /// # Errors
    /// [`TransportSetupError`].
    pub fn new(
        timeouts: &Timeouts,
        authorities: Option<&Path>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TransportSetupError> {
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(timeouts.connect)
            .timeout(timeouts.exchange)
            .pool_idle_timeout(timeouts.idle)
            .tcp_nodelay(true)
            .user_agent(concat!("shopper-gateway/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = authorities {
            let pem = std::fs::read(path)
                .map_err(|source| TransportSetupError::AuthorityFile { path: path.display().to_string(), source })?;
            builder = builder.tls_certs_only(Certificate::from_pem_bundle(&pem)?);
        }
        Ok(Self { client: builder.build()?, metrics })
    }

    /// The client to build requests with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where the calls are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sends a request and reads the whole answer, counted and timed under its purpose.
    ///
    /// # Errors
    /// [`TransportError`]; an HTTP status, whichever, is no error here.
    pub async fn send(&self, purpose: Purpose, request: RequestBuilder) -> Result<Answer, TransportError> {
        let start = Instant::now();
        let span = spans::exchange(purpose.service, purpose.flow);
        let result = waiting::on_others(read_whole(request).instrument(span.clone())).await;
        let outcome = match &result {
            Ok(answer) => match answer.status.as_u16() {
                200..=399 => "ok",
                409 => "conflict",
                429 => "rate_limited",
                400..=499 => "rejected",
                _ => "failed",
            },
            Err(TransportError::Timeout) => "timeout",
            Err(_) => "unreachable",
        };
        span.record("outcome", outcome);
        self.metrics.exchange(purpose.service, purpose.flow, outcome, start.elapsed());
        result
    }
}

async fn read_whole(request: RequestBuilder) -> Result<Answer, TransportError> {
    let mut response = request.send().await.map_err(|error| classify(&error))?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| classify(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(TransportError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body: body.freeze() })
}

fn classify(error: &reqwest::Error) -> TransportError {
    if error.is_timeout() {
        TransportError::Timeout
    } else if error.is_connect() {
        TransportError::Unreachable
    } else {
        TransportError::Broken
    }
}
