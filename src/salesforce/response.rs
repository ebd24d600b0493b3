//! A response of Salesforce's services as it came, or why there is none.
//!
//! Nothing here knows what a response means for a call: `exchange` says that, and `guard` what it means for the next one.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{DATE, RETRY_AFTER},
};

use crate::connect_failure::ConnectFailure;

/// Largest answer that is read, bytes. A token answer has about 4 KiB, a key set 2 KiB.
pub const MAX_RESPONSE_BYTES: usize = 1024 * 1024;
/// Longest wait that a service is believed to want.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no whole answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No connection, and why.
    #[error("no connection could be made: {0}")]
    Unreachable(ConnectFailure),
    /// The time for the exchange was over.
    #[error("the answer took too long")]
    Timeout,
    /// The connection broke, or what came was not HTTP.
    #[error("the answer broke off or was not HTTP")]
    Broken,
    /// More than [`MAX_RESPONSE_BYTES`].
    #[error("the answer is too large")]
    TooLarge,
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3). A date counts from the answer's own `Date`, so that clocks that
/// differ do no harm. One that is over is no wait.
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
    fn retry_after_as_a_date_counts_from_the_answers_own_date() {
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
        assert_eq!(wait(late, None), Some(Duration::ZERO), "long ago by our own clock");
        assert_eq!(wait("soon", Some(early)), None);
    }
}
