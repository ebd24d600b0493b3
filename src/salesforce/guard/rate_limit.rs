//! SLAS's rate limit of a tenant, read from the headers of its responses.
//!
//! Sources are `X-RateLimit-1M-*`, `X-RateLimit-5M-*` and `Retry-After`. All gateways and applications of a tenant share the
//! limit, so the headers apply in addition to the gateways' own rate limit. After a 429 the gateway sends no calls until the
//! wait is over. Then it sends one call at a time, until SLAS accepts one.
//!
//! Forwarded requests must not let a client block SLAS for the tenant. A 429 to a forwarded request counts only if the
//! `X-RateLimit` headers report an exhausted limit, and at most for SLAS's longest window. Any other 429 concerns only that
//! client.

use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};

use super::{
    call::{Priority, Sender},
    circuit_breaker::PROBES,
};
use crate::{ratelimit::TokenBucket, salesforce::response::retry_after, time::unix_now};

/// Wait after a 429 without a time.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Maximum wait after a response to the gateway's own call.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Maximum wait after a response to a forwarded request: SLAS's longest window.
const MAX_WAIT_AFTER_CLIENT_RESPONSE: Duration = Duration::from_secs(300);
/// Resets from this number on are seconds since 1970. Smaller ones are seconds from now.
const MIN_EPOCH_SECONDS: u64 = 1_000_000_000;

/// The latest rate limit that SLAS reported.
#[derive(Debug, Default)]
pub(super) struct RemoteRateLimit {
    minute: Window,
    five_minutes: Window,
    blocked_until: Option<Instant>,
    /// Whether SLAS has sent a 429 and has accepted no call since.
    is_probing: bool,
}

/// One of SLAS's rate limit windows.
#[derive(Debug, Default)]
struct Window {
    limit: u32,
    remaining: Option<u32>,
    ends_at: Option<Instant>,
}

impl Window {
    /// Reads the window from the headers, and returns the remaining requests if the headers contain them.
    fn update(&mut self, headers: &HeaderMap, name: &str, max_wait: Duration, now: Instant) -> Option<u32> {
        let number = |part: &str| -> Option<u64> {
            headers.get(format!("x-ratelimit-{name}-{part}"))?.to_str().ok()?.trim().parse().ok()
        };
        let count = |part| number(part).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        let (limit, remaining) = (count("limit")?, count("remaining")?);
        let ends_in = number("reset").map(|reset| match reset {
            time if time >= MIN_EPOCH_SECONDS => time.saturating_sub(unix_now()),
            seconds => seconds,
        });
        self.limit = limit;
        self.remaining = Some(remaining);
        self.ends_at = Some(now + ends_in.map_or(max_wait, Duration::from_secs).min(max_wait));
        self.remaining
    }

    /// Returns the time that a priority must wait. Logins may use the whole limit. Refreshes leave a tenth of it, forwarded logins
    /// three twentieths, other forwarded requests a quarter, and background refreshes a half.
    fn wait(&self, priority: Priority, now: Instant) -> Option<Duration> {
        let reserve = match priority {
            Priority::Refresh => self.limit / 10,
            Priority::ForwardedLogin => self.limit / 20 * 3,
            Priority::Forwarded => self.limit / 4,
            Priority::BackgroundRefresh => self.limit / 2,
            Priority::Login | Priority::System | Priority::Profile | Priority::Maintenance => 0,
        };
        let left = self.ends_at.filter(|end| *end > now)?.duration_since(now);
        (self.remaining? <= reserve).then_some(left)
    }
}

impl RemoteRateLimit {
    /// Checks whether SLAS accepts a call of this priority now.
    ///
    /// # Errors
    /// The time to wait, if not.
    pub(super) fn admit(&self, priority: Priority, now: Instant, probes: &mut TokenBucket) -> Result<(), Duration> {
        if let Some(wait) =
            self.blocked_until.and_then(|until| until.checked_duration_since(now)).filter(|wait| !wait.is_zero())
        {
            return Err(wait);
        }
        if let Some(wait) = self.minute.wait(priority, now).max(self.five_minutes.wait(priority, now)) {
            return Err(wait);
        }
        if self.is_probing { probes.try_acquire(PROBES, 1, now) } else { Ok(()) }
    }

    /// Reads a response. Returns true for the first 429 since SLAS accepted a call.
    pub(super) fn on_response(
        &mut self,
        sender: Sender,
        status: StatusCode,
        headers: &HeaderMap,
        now: Instant,
    ) -> bool {
        let minute = self.minute.update(headers, "1m", Duration::from_secs(60), now);
        let five_minutes = self.five_minutes.update(headers, "5m", Duration::from_secs(300), now);
        if status != StatusCode::TOO_MANY_REQUESTS {
            // A response to a call sent before the 429 does not end the wait.
            if self.blocked_until.is_none_or(|until| until <= now) {
                self.is_probing = false;
            }
            return false;
        }
        let max_wait = match sender {
            Sender::Gateway => MAX_WAIT,
            Sender::Client if [minute, five_minutes].contains(&Some(0)) => MAX_WAIT_AFTER_CLIENT_RESPONSE,
            Sender::Client => return false,
        };
        let retry_after = retry_after(headers);
        let reset = self.minute.wait(Priority::Login, now).max(self.five_minutes.wait(Priority::Login, now));
        let until = now + retry_after.or(reset).unwrap_or(DEFAULT_RETRY_AFTER).clamp(DEFAULT_RETRY_AFTER, max_wait);
        self.blocked_until = Some(self.blocked_until.map_or(until, |earlier| earlier.max(until)));
        !std::mem::replace(&mut self.is_probing, true)
    }

    /// Returns the requests that remain in the current minute. Once the reported minute is over, that is the whole limit.
    pub(super) fn remaining(&self, now: Instant) -> Option<u32> {
        let is_over = self.minute.ends_at.is_some_and(|end| end <= now);
        if is_over { Some(self.minute.limit) } else { self.minute.remaining }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn minute(remaining: &'static str, reset: &'static str) -> HeaderMap {
        headers(&[
            ("x-ratelimit-1m-limit", "500"),
            ("x-ratelimit-1m-remaining", remaining),
            ("x-ratelimit-1m-reset", reset),
        ])
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn rate_limit_after_429_blocks_until_retry_after_then_admits_one_at_a_time() {
        let (mut rate_limit, mut probes, start) = (RemoteRateLimit::default(), TokenBucket::default(), Instant::now());
        assert!(rate_limit.on_response(
            Sender::Gateway,
            StatusCode::TOO_MANY_REQUESTS,
            &headers(&[("retry-after", "30")]),
            start
        ));
        assert!(
            !rate_limit.on_response(
                Sender::Gateway,
                StatusCode::TOO_MANY_REQUESTS,
                &headers(&[("retry-after", "1")]),
                start
            ),
            "the second 429 is not the first"
        );
        for priority in [Priority::Login, Priority::Refresh, Priority::BackgroundRefresh] {
            assert_eq!(rate_limit.admit(priority, start + seconds(29), &mut probes), Err(seconds(1)), "{priority:?}");
        }
        rate_limit.on_response(Sender::Gateway, StatusCode::OK, &HeaderMap::new(), start + seconds(10));
        let later = start + seconds(30);
        assert_eq!(rate_limit.admit(Priority::Login, later, &mut probes), Ok(()));
        assert_eq!(rate_limit.admit(Priority::Login, later, &mut probes), Err(seconds(1)));
        rate_limit.on_response(Sender::Gateway, StatusCode::OK, &HeaderMap::new(), later);
        assert!((0..5).all(|_| rate_limit.admit(Priority::Login, later, &mut probes).is_ok()));
    }

    #[test]
    fn lower_priority_calls_are_rejected_first() {
        let (mut rate_limit, mut probes, now) = (RemoteRateLimit::default(), TokenBucket::default(), Instant::now());
        let may = |rate_limit: &RemoteRateLimit, probes: &mut TokenBucket, at| {
            [Priority::Login, Priority::Refresh, Priority::BackgroundRefresh]
                .map(|priority| rate_limit.admit(priority, at, probes).is_ok())
        };
        for (remaining, expected) in
            [("251", [true, true, true]), ("250", [true, true, false]), ("50", [true, false, false]), ("0", [false; 3])]
        {
            rate_limit.on_response(Sender::Gateway, StatusCode::OK, &minute(remaining, "20"), now);
            assert_eq!(may(&rate_limit, &mut probes, now), expected, "{remaining}");
        }
        assert_eq!(rate_limit.admit(Priority::Login, now, &mut probes), Err(seconds(20)));
        assert_eq!(may(&rate_limit, &mut probes, now + seconds(20)), [true; 3], "the next minute");
    }

    #[test]
    fn wait_after_429_without_retry_after_is_the_window_or_a_second() {
        let (mut probes, now) = (TokenBucket::default(), Instant::now());
        for (headers, expected) in [
            (HeaderMap::new(), 1),
            (minute("0", "12"), 12),
            (minute("0", "99999"), 60),
            (headers(&[("retry-after", "0")]), 1),
            (headers(&[("retry-after", "99999999")]), 3600),
        ] {
            let mut rate_limit = RemoteRateLimit::default();
            rate_limit.on_response(Sender::Gateway, StatusCode::TOO_MANY_REQUESTS, &headers, now);
            assert_eq!(rate_limit.admit(Priority::Login, now, &mut probes), Err(seconds(expected)), "{headers:?}");
        }
    }

    #[test]
    fn remaining_resets_after_window() {
        let (mut rate_limit, now) = (RemoteRateLimit::default(), Instant::now());
        assert_eq!(rate_limit.remaining(now), None);
        rate_limit.on_response(Sender::Gateway, StatusCode::OK, &minute("3", "10"), now);
        assert_eq!(rate_limit.remaining(now + seconds(9)), Some(3));
        assert_eq!(rate_limit.remaining(now + seconds(10)), Some(500));
    }

    #[test]
    fn window_reset_accepts_unix_time() {
        let (mut rate_limit, now) = (RemoteRateLimit::default(), Instant::now());
        let at = HeaderValue::from(unix_now() + 30);
        let mut fields = minute("0", "1");
        fields.insert("x-ratelimit-1m-reset", at);
        rate_limit.on_response(Sender::Gateway, StatusCode::OK, &fields, now);
        let wait = rate_limit.admit(Priority::Login, now, &mut TokenBucket::default()).unwrap_err();
        assert!((seconds(28)..=seconds(30)).contains(&wait), "{wait:?}");
    }

    #[test]
    fn rate_limit_after_429_to_client_blocks_only_exhausted_windows() {
        let (mut probes, now) = (TokenBucket::default(), Instant::now());
        let with_retry_after = |mut fields: HeaderMap| {
            fields.insert("retry-after", HeaderValue::from_static("900"));
            fields
        };
        for (fields, expected) in [
            (with_retry_after(HeaderMap::new()), None),
            (with_retry_after(minute("499", "20")), None),
            (with_retry_after(headers(&[("x-ratelimit-1m-remaining", "0")])), None),
            (with_retry_after(minute("0", "20")), Some(300)),
            (minute("0", "20"), Some(20)),
        ] {
            let mut rate_limit = RemoteRateLimit::default();
            rate_limit.on_response(Sender::Client, StatusCode::TOO_MANY_REQUESTS, &fields, now);
            let wait = rate_limit.admit(Priority::Login, now, &mut probes).err();
            assert_eq!(wait, expected.map(seconds), "{fields:?}");
        }
        // A response to a client does not end the wait after a 429 to the gateway.
        let mut rate_limit = RemoteRateLimit::default();
        rate_limit.on_response(Sender::Gateway, StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "30")]), now);
        rate_limit.on_response(Sender::Client, StatusCode::OK, &HeaderMap::new(), now + seconds(1));
        assert_eq!(rate_limit.admit(Priority::Login, now, &mut probes), Err(seconds(30)));
    }
}
