//! The gateway's own calls to Salesforce over HTTP: bounded in time and size, verified, unredirected.
//!
//! Owns the client's settings, and the one way that every exchange takes: first the [`Guard`], then the wire, then the
//! guard learns what came of it. Redirects are never followed (SLAS answers logins by 303, and the code is in its
//! `Location`), no proxy of the environment is used, and an answer larger than [`MAX_ANSWER_BYTES`] is cut off unread.
//! What may be sent twice is sent once more after a failure, if the guard's budget allows it and the time for the
//! exchange is not over.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Certificate, Client, RequestBuilder, redirect::Policy};
use tracing::Instrument;

use super::{
    exchange::ExchangeError,
    guard::{Class, Guard, Sender},
};
use crate::{clock::random_fraction, correlation, metrics::Metrics, settings::Timeouts, spans, waiting};

/// Largest answer that is read, bytes. A token answer has about 4 KiB, a key set 2 KiB.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// Shortest wait before a call is repeated; up to twice as much is added at random.
const BEFORE_REPEAT: Duration = Duration::from_millis(50);

/// A connection pool to Salesforce's services.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client,
    guard: Arc<Guard>,
    /// Time limit of one exchange, repeat included.
    within: Duration,
    metrics: Arc<Metrics>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// What a call is for: how the metrics name it, and how it is treated.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    service: &'static str,
    flow: &'static str,
    class: Class,
    is_repeatable: bool,
    sender: Sender,
}

impl Purpose {
    /// A call to `slas`, `account_manager` or `api`, of a flow such as `refresh_token`.
    #[must_use]
    pub fn new(service: &'static str, flow: &'static str, class: Class) -> Self {
        Self { service, flow, class, is_repeatable: false, sender: Sender::Gateway }
    }

    /// The same, for what may be sent twice: it changes nothing, or makes something that nobody has to know.
    #[must_use]
    pub fn repeatable(self) -> Self {
        Self { is_repeatable: true, ..self }
    }

    /// The same, for a client's own request that the gateway passes on.
    #[must_use]
    pub fn of_client(self) -> Self {
        Self { sender: Sender::Client, ..self }
    }
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
        guard: Arc<Guard>,
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
        Ok(Self { client: builder.build()?, guard, within: timeouts.exchange, metrics })
    }

    /// The client to build requests with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Where exchanges are counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What is asked before each exchange.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Makes a guarded call and reads its answer, within the time for one exchange.
    ///
    /// # Errors
    /// [`ExchangeError`]: what the guard refuses, what did not arrive, and what `read` makes of the answer.
    pub async fn exchange<T>(
        &self,
        purpose: Purpose,
        request: RequestBuilder,
        read: impl Fn(&Answer) -> Result<T, ExchangeError>,
    ) -> Result<T, ExchangeError> {
        let deadline = Instant::now() + self.within;
        let again = if purpose.is_repeatable { request.try_clone() } else { None };
        self.guard.count();
        let first = self.attempt(purpose, request, &read).await;
        let (Err(error), Some(again)) = (&first, again) else { return first };
        let pause = BEFORE_REPEAT.mul_f64(1.0 + 2.0 * random_fraction());
        if !error.may_pass() || Instant::now() + pause >= deadline || !self.guard.may_repeat() {
            return first;
        }
        waiting::on_others(tokio::time::sleep(pause)).await;
        let left = deadline.saturating_duration_since(Instant::now());
        self.attempt(purpose, again.timeout(left), &read).await
    }

    async fn attempt<T>(
        &self,
        purpose: Purpose,
        request: RequestBuilder,
        read: &impl Fn(&Answer) -> Result<T, ExchangeError>,
    ) -> Result<T, ExchangeError> {
        if let Err(error) = waiting::on_others(self.guard.admit(purpose.class)).await {
            self.metrics.token_exchanges.with_label_values(&[purpose.service, purpose.flow, "not_sent"]).inc();
            return Err(error);
        }
        let began = Instant::now();
        let answer = self.send(purpose, request).await;
        let outcome = answer.map_err(ExchangeError::from).and_then(|answer| read(&answer));
        self.guard.learn(purpose.class, began, &outcome);
        outcome
    }

    /// Sends a request and reads the whole answer, counted and timed under its purpose, and unguarded. It carries the
    /// correlation id of the request that it is made for, or one of its own.
    ///
    /// # Errors
    /// [`TransportError`]; an HTTP status, whichever, is no error here.
    pub async fn send(&self, purpose: Purpose, request: RequestBuilder) -> Result<Answer, TransportError> {
        let start = Instant::now();
        let span = spans::exchange(purpose.service, purpose.flow);
        let correlation_id = correlation::current();
        let result = waiting::on_others(read_whole(request, correlation_id.clone()).instrument(span.clone())).await;
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
        if outcome != "ok" {
            let (service, flow, correlation_id) = (purpose.service, purpose.flow, correlation::text(&correlation_id));
            tracing::debug!(service, flow, outcome, correlation_id, "an exchange gave no token or document");
        }
        self.metrics.exchange(purpose.service, purpose.flow, outcome, start.elapsed());
        if let Ok(answer) = &result
            && purpose.class.is_budgeted()
        {
            self.guard.heed(purpose.sender, answer.status, &answer.headers);
        }
        result
    }
}

async fn read_whole(request: RequestBuilder, correlation_id: HeaderValue) -> Result<Answer, TransportError> {
    let (client, request) = request.build_split();
    let mut request = request.map_err(|error| classify(&error))?;
    // A client's request that is passed on has one already: it is the same.
    request.headers_mut().insert(correlation::FIELD, correlation_id);
    let mut response = client.execute(request).await.map_err(|error| classify(&error))?;
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
