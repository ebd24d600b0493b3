//! The gateway's own calls to Salesforce over HTTP: bounded in time and size, verified, unredirected.
//!
//! Owns the client's settings, and the one way that every exchange takes: first the [`CallGuard`], then the wire, then the
//! guard learns what came of it. Redirects are never followed (SLAS answers logins by 303, and the code is in its
//! `Location`), no proxy of the environment is used, and an answer larger than [`MAX_RESPONSE_BYTES`] is cut off unread.
//! What may be sent twice is sent once more after a failure, if the guard's budget allows it and the time for the
//! exchange is not over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use http::HeaderValue;
use reqwest::{Certificate, Client, RequestBuilder, redirect::Policy};
use rustls::pki_types::CertificateDer;
use tracing::Instrument;
use url::Url;

pub use super::response::{MAX_RESPONSE_BYTES, Response, TransportError};
use super::{
    error::SalesforceError,
    guard::{AdmitError, CallGuard, Outcome, Priority, Sender},
    resolver::Resolver,
};
use crate::{
    config::Timeouts,
    connect_failure::{ConnectFailure, LogThrottle},
    correlation, host,
    observability::{metrics::Metrics, spans},
    time::{external_wait, random_fraction},
};

/// Shortest wait before a call is repeated; up to twice as much is added at random.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
/// The part of an exchange's time that connecting may take.
const CONNECT_TIMEOUT_SHARE: f64 = 0.9;

/// A connection pool to Salesforce's services.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client,
    guard: Arc<CallGuard>,
    /// Time limit of one exchange, repeat included.
    timeout: Duration,
    metrics: Arc<Metrics>,
    /// Shared by all clones.
    failure_log: Arc<LogThrottle>,
}

/// What a call is for: how the metrics name it, and how it is treated.
#[derive(Debug, Clone, Copy)]
pub struct CallKind {
    service: &'static str,
    flow: &'static str,
    priority: Priority,
    is_retryable: bool,
    sender: Sender,
}

impl CallKind {
    /// A call to `slas`, `account_manager` or `api`, of a flow such as `refresh_token`.
    #[must_use]
    pub fn new(service: &'static str, flow: &'static str, priority: Priority) -> Self {
        Self { service, flow, priority, is_retryable: false, sender: Sender::Gateway }
    }

    /// The same, for what may be sent twice: it changes nothing, or makes something that nobody has to know.
    #[must_use]
    pub fn retryable(self) -> Self {
        Self { is_retryable: true, ..self }
    }

    /// The same, for a client's own request that the gateway passes on.
    #[must_use]
    pub fn from_client(self) -> Self {
        Self { sender: Sender::Client, ..self }
    }
}

/// Why no client can be built.
#[derive(Debug, thiserror::Error)]
#[error("the client for Salesforce's services: {0}")]
pub struct TransportSetupError(#[from] reqwest::Error);

impl Transport {
    /// A client for the server at `url` (origin only), which trusts these authorities alone.
    ///
    /// # Errors
    /// [`TransportSetupError`] if an authority cannot be used, or TLS not be set up.
    pub fn new(
        timeouts: &Timeouts,
        url: &Url,
        authorities: &[CertificateDer<'static>],
        guard: Arc<CallGuard>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TransportSetupError> {
        let trusted: Result<Vec<_>, _> = authorities.iter().map(|der| Certificate::from_der(der)).collect();
        // Before the exchange's own end: who waits for a connection in vain should not blame the answer.
        let connect = timeouts.connect.min(timeouts.exchange.mul_f64(CONNECT_TIMEOUT_SHARE));
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .retry(reqwest::retry::never())
            .dns_resolver(Resolver::new(host::has_root_dot(url)))
            .tls_certs_only(trusted?)
            .connect_timeout(connect)
            .timeout(timeouts.exchange)
            .pool_idle_timeout(timeouts.idle)
            .tcp_nodelay(true)
            .user_agent(concat!("shopper-gateway/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { client, guard, timeout: timeouts.exchange, metrics, failure_log: Arc::default() })
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
    pub fn guard(&self) -> &Arc<CallGuard> {
        &self.guard
    }

    /// Makes a guarded call and reads its answer, within the time for one exchange.
    ///
    /// # Errors
    /// [`SalesforceError`]: what the guard refuses, what did not arrive, and what `read` makes of the answer.
    pub async fn exchange<T>(
        &self,
        kind: CallKind,
        request: RequestBuilder,
        read: impl Fn(&Response) -> Result<T, SalesforceError>,
    ) -> Result<T, SalesforceError> {
        let deadline = Instant::now() + self.timeout;
        let retry = if kind.is_retryable { request.try_clone() } else { None };
        self.guard.count_call();
        let first = self.attempt(kind, request, &read).await;
        let (Err(error), Some(retry)) = (&first, retry) else { return first };
        let delay = MIN_RETRY_DELAY.mul_f64(1.0 + 2.0 * random_fraction());
        if !error.is_transient() || Instant::now() + delay >= deadline || !self.guard.try_retry() {
            return first;
        }
        external_wait::track(tokio::time::sleep(delay)).await;
        let left = deadline.saturating_duration_since(Instant::now());
        self.attempt(kind, retry.timeout(left), &read).await
    }

    async fn attempt<T>(
        &self,
        kind: CallKind,
        request: RequestBuilder,
        read: &impl Fn(&Response) -> Result<T, SalesforceError>,
    ) -> Result<T, SalesforceError> {
        if let Err(error) = external_wait::track(self.guard.admit(kind.priority)).await {
            self.metrics.token_exchanges.with_label_values(&[kind.service, kind.flow, "circuit_open"]).inc();
            return Err(error.into());
        }
        let began = Instant::now();
        let answer = self.send(kind, request).await;
        let outcome = answer.map_err(SalesforceError::from).and_then(|answer| read(&answer));
        self.guard.record_outcome(kind.priority, began, outcome_of(&outcome));
        outcome
    }

    /// Sends a request and reads the whole answer, counted and timed under its kind, and unguarded. It carries the
    /// correlation id of the request that it is made for, or one of its own.
    ///
    /// # Errors
    /// [`TransportError`]; an HTTP status, whichever, is no error here.
    pub async fn send(&self, kind: CallKind, request: RequestBuilder) -> Result<Response, TransportError> {
        let start = Instant::now();
        let span = spans::exchange(kind.service, kind.flow);
        let correlation_id = correlation::current();
        let answer =
            external_wait::track(read_response(request, correlation_id.clone()).instrument(span.clone())).await;
        let (host, result) = match answer {
            Ok(answer) => (None, Ok(answer)),
            Err(error) => (host_of(&error), Err(error.into())),
        };
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
            let (service, flow, correlation_id) = (kind.service, kind.flow, correlation::text(&correlation_id));
            tracing::debug!(service, flow, outcome, correlation_id, "an exchange gave no token or document");
        }
        if let Err(TransportError::Unreachable(cause)) = result {
            self.record_connect_failure(kind.service, host.as_deref(), cause);
        }
        self.metrics.record_exchange(kind.service, kind.flow, outcome, start.elapsed());
        if let Ok(answer) = &result
            && kind.priority.is_budgeted()
        {
            self.guard.on_response(kind.sender, answer.status, &answer.headers);
        }
        result
    }

    /// Counts a failure to connect, and logs it if its cause is due.
    fn record_connect_failure(&self, service: &str, host: Option<&str>, cause: ConnectFailure) {
        self.metrics.connect_failures.with_label_values(&[service, cause.label()]).inc();
        if self.failure_log.admits(cause) {
            let advice = cause.advice();
            tracing::warn!(service, host, cause = cause.label(), "no connection: {cause}; {advice}");
        }
    }
}

impl From<AdmitError> for SalesforceError {
    fn from(error: AdmitError) -> Self {
        match error {
            AdmitError::RateLimited(wait) => Self::RateLimited { retry_after: Some(wait) },
            AdmitError::CircuitOpen => Self::CircuitOpen,
        }
    }
}

/// What the guard learns from what came of a call.
fn outcome_of<T>(result: &Result<T, SalesforceError>) -> Outcome {
    match result {
        Err(SalesforceError::ServerError(_) | SalesforceError::Transport(_) | SalesforceError::Malformed(_)) => {
            Outcome::Failure
        }
        Err(SalesforceError::RateLimited { .. } | SalesforceError::CircuitOpen | SalesforceError::Random(_)) => {
            Outcome::Ignored
        }
        Ok(_) | Err(SalesforceError::Rejected { .. } | SalesforceError::Conflict) => Outcome::Success,
    }
}

/// Why there is no whole answer, as the library says it.
enum ReadError {
    Library(reqwest::Error),
    TooLarge,
}

impl From<reqwest::Error> for ReadError {
    fn from(error: reqwest::Error) -> Self {
        Self::Library(error)
    }
}

impl From<ReadError> for TransportError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::TooLarge => Self::TooLarge,
            // A timeout while connecting is both.
            ReadError::Library(error) if error.is_connect() && error.is_timeout() => {
                Self::Unreachable(ConnectFailure::TimedOut)
            }
            ReadError::Library(error) if error.is_connect() => Self::Unreachable(ConnectFailure::from_error(&error)),
            ReadError::Library(error) if error.is_timeout() => Self::Timeout,
            ReadError::Library(_) => Self::Broken,
        }
    }
}

async fn read_response(request: RequestBuilder, correlation_id: HeaderValue) -> Result<Response, ReadError> {
    let (client, request) = request.build_split();
    let mut request = request?;
    // A client's request that is passed on has one already: it is the same.
    request.headers_mut().insert(correlation::HEADER, correlation_id);
    let mut response = client.execute(request).await?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            return Err(ReadError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response { status, headers, body: body.freeze() })
}

/// Host and port that were called: of a URL they are all that may stand in a log.
fn host_of(error: &ReadError) -> Option<String> {
    let ReadError::Library(error) = error else { return None };
    let url = error.url()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}
