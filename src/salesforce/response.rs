//! A response of Salesforce's services, or the error of its transport.
//!
//! This module does not interpret responses: `error` does for the call, and `guard` does for later calls.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{DATE, RETRY_AFTER},
};

use crate::connect_failure::ConnectFailure;

/// Maximum bytes of a response. A token response has about 4 KiB, a key set 2 KiB.
pub const MAX_RESPONSE_BYTES: usize = 1024 * 1024;
/// Maximum wait accepted from `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A complete response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The complete body.
    pub body: Bytes,
}

/// The reason why no complete response arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection, with its cause.
    #[error("no connection could be made: {0}")]
    Unreachable(ConnectFailure),
    /// The timeout of the call has passed.
    #[error("response timed out")]
    Timeout,
    /// The connection broke, or the response was not HTTP.
    #[error("response incomplete or not HTTP")]
    Broken,
    /// More than [`MAX_RESPONSE_BYTES`].
    #[error("response too large")]
    TooLarge,
}

/// Returns the wait of `Retry-After`: seconds or a date (RFC 9110, 10.2.3). A date is relative to the response's own `Date`, so
/// different clocks do no harm. A past date is no wait.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let written = text(RETRY_AFTER)?;
    let wait = match written.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = httpdate::parse_http_date(written).ok()?;
            let now = text(DATE).and_then(|date| httpdate::parse_http_date(date).ok()).unwrap_or_else(SystemTime::now);
            until.duration_since(now).unwrap_or_default()
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_date_is_relative_to_the_response_date() {
        let wait = |written: &str, date: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(written).unwrap());
            date.map(|date| headers.insert(DATE, HeaderValue::from_str(date).unwrap()));
            retry_after(&headers)
        };
        let (early, late) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(wait(late, Some(early)), Some(Duration::from_secs(30)));
        assert_eq!(wait("Sunday, 06-Nov-94 08:50:07 GMT", Some(early)), Some(Duration::from_secs(30)));
        assert_eq!(wait(early, Some(late)), Some(Duration::ZERO));
        assert_eq!(wait(late, None), Some(Duration::ZERO), "a past date by the local clock");
        assert_eq!(wait("soon", Some(early)), None);
    }
}
