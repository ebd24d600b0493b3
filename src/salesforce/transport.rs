//! The HTTP client of the gateway's own calls to Salesforce, with limits on time and size.
//!
//! Each call passes the [`CallGuard`], is sent, and reports its outcome to the guard. The client never follows redirects: SLAS
//! responds to logins by 303, with the code in `Location`. It ignores the proxy settings of the environment, and stops reading
//! after [`MAX_RESPONSE_BYTES`]. A retryable call is retried once after a transient failure, if the retry budget and the timeout
//! allow it.

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

/// Minimum delay of a retry. Up to twice as much is added at random.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
/// Share of a call's timeout that connecting may take.
const CONNECT_TIMEOUT_SHARE: f64 = 0.9;

/// A connection pool to Salesforce's services.
#[derive(Debug, Clone)]
pub struct Transport {
    client: Client,
    guard: Arc<CallGuard>,
    /// Timeout of one call, including its retry.
    timeout: Duration,
    metrics: Arc<Metrics>,
    /// Shared by all clones.
    failure_log: Arc<LogThrottle>,
}

/// The kind of a call: its names in metrics, its priority, and whether it is retryable.
#[derive(Debug, Clone, Copy)]
pub struct CallKind {
    service: &'static str,
    flow: &'static str,
    priority: Priority,
    is_retryable: bool,
    sender: Sender,
}

impl CallKind {
    /// Creates the kind of a call to `slas`, `account_manager` or `api`, with a flow like `refresh_token`.
    #[must_use]
    pub fn new(service: &'static str, flow: &'static str, priority: Priority) -> Self {
        Self { service, flow, priority, is_retryable: false, sender: Sender::Gateway }
    }

    /// Marks the call as retryable: sending it twice does no harm.
    #[must_use]
    pub fn retryable(self) -> Self {
        Self { is_retryable: true, ..self }
    }

    /// Marks the call as a client's own request that the gateway forwards.
    #[must_use]
    pub fn from_client(self) -> Self {
        Self { sender: Sender::Client, ..self }
    }
}

/// The HTTP client cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("HTTP client of Salesforce's services: {0}")]
pub struct TransportSetupError(#[from] reqwest::Error);

impl Transport {
    /// Creates a client for the server at `url` (origin only), which trusts only these certificate authorities.
    ///
    /// # Errors
    /// [`TransportSetupError`] if an authority is invalid or TLS cannot be set up.
    pub fn new(
        timeouts: &Timeouts,
        url: &Url,
        authorities: &[CertificateDer<'static>],
        guard: Arc<CallGuard>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, TransportSetupError> {
        let trusted: Result<Vec<_>, _> = authorities.iter().map(|der| Certificate::from_der(der)).collect();
        // Shorter than the whole timeout, so that a failed connection is not reported as a response timeout.
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

    /// Returns the client that builds requests.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the metrics that count calls.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Returns the guard that admits calls.
    #[must_use]
    pub fn guard(&self) -> &Arc<CallGuard> {
        &self.guard
    }

    /// Makes a guarded call and interprets its response with `read`, within the timeout.
    ///
    /// # Errors
    /// [`SalesforceError`] if the guard rejects the call, no complete response arrives, or `read` returns an error.
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
        let response = self.send(kind, request).await;
        let outcome = response.map_err(SalesforceError::from).and_then(|response| read(&response));
        self.guard.record_outcome(kind.priority, began, outcome_of(&outcome));
        outcome
    }

    /// Sends a request without the guard, reads the whole response, and records both under its kind. The request carries the
    /// correlation id of the current request, or a new one.
    ///
    /// # Errors
    /// [`TransportError`] if no complete response arrives. No HTTP status is an error here.
    pub async fn send(&self, kind: CallKind, request: RequestBuilder) -> Result<Response, TransportError> {
        let start = Instant::now();
        let span = spans::exchange(kind.service, kind.flow);
        let correlation_id = correlation::current();
        let response =
            external_wait::track(read_response(request, correlation_id.clone()).instrument(span.clone())).await;
        let (host, result) = match response {
            Ok(response) => (None, Ok(response)),
            Err(error) => (host_of(&error), Err(error.into())),
        };
        let outcome = match &result {
            Ok(response) => match response.status.as_u16() {
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
            tracing::debug!(service, flow, outcome, correlation_id, "call to Salesforce failed");
        }
        if let Err(TransportError::Unreachable(cause)) = result {
            self.record_connect_failure(kind.service, host.as_deref(), cause);
        }
        self.metrics.record_exchange(kind.service, kind.flow, outcome, start.elapsed());
        if let Ok(response) = &result
            && kind.priority.is_rate_limited()
        {
            self.guard.on_response(kind.sender, response.status, &response.headers);
        }
        result
    }

    /// Counts a connection failure, and logs it unless the same cause was logged recently.
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

/// Returns the outcome for the circuit breaker.
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

/// A failed read of a response.
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
            // A timeout while connecting is both a connection error and a timeout.
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
    // A forwarded request already has the same correlation id.
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

/// Returns host and port of the called URL. A log must not contain the rest of the URL.
fn host_of(error: &ReadError) -> Option<String> {
    let ReadError::Library(error) = error else { return None };
    let url = error.url()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}
