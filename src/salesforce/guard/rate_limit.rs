//! How many more requests SLAS takes of a tenant, as its own answers say.
//!
//! Owns the reading of `X-RateLimit-1M-*`, `X-RateLimit-5M-*` and `Retry-After`. The limit is the tenant's, whoever asks: other
//! gateways and applications spend of it too, so what SLAS says counts beside our own budget. After a 429 nobody
//! asks until it is over, and then one at a time, until SLAS takes a request again.
//!
//! A client that forwards its own requests must not be able to close SLAS for the tenant: a 429 to one of them closes it
//! only where the `X-RateLimit` fields say that nothing is left, and for no longer than the longest window. Any other
//! 429 is that client's to wait out.

use std::time::{Duration, Instant};

use http::{HeaderMap, StatusCode};

use super::{
    call::{Priority, Sender},
    circuit_breaker::PROBES,
};
use crate::{ratelimit::TokenBucket, salesforce::response::retry_after, time::unix_now};

/// After a 429 that says no time.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest time that is believed.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// The same where the answer was to a client's own request: the longest window of SLAS.
const MAX_WAIT_AFTER_CLIENT_RESPONSE: Duration = Duration::from_secs(300);
/// Smaller numbers are seconds from now, larger ones a time since 1970.
const MIN_EPOCH_SECONDS: u64 = 1_000_000_000;

/// What SLAS said last.
#[derive(Debug, Default)]
pub(super) struct RemoteRateLimit {
    minute: Window,
    five_minutes: Window,
    closed_until: Option<Instant>,
    /// Whether a 429 came, and nothing else since.
    is_probing: bool,
}

/// One of its windows.
#[derive(Debug, Default)]
struct Window {
    limit: u32,
    remaining: Option<u32>,
    ends_at: Option<Instant>,
}

impl Window {
    /// What the answer says is left, if it says it.
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

    /// How long a class has to wait: of what is left, logins may have all, refreshes leave a tenth of the limit, forwarded
    /// logins three twentieths, other forwarded requests a quarter, and refreshes ahead of time a half.
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
    /// Whether SLAS would take a request of this class now.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) fn admit(&self, priority: Priority, now: Instant, probes: &mut TokenBucket) -> Result<(), Duration> {
        if let Some(wait) =
            self.closed_until.and_then(|until| until.checked_duration_since(now)).filter(|wait| !wait.is_zero())
        {
            return Err(wait);
        }
        if let Some(wait) = self.minute.wait(priority, now).max(self.five_minutes.wait(priority, now)) {
            return Err(wait);
        }
        if self.is_probing { probes.try_acquire(PROBES, 1, now) } else { Ok(()) }
    }

    /// Learns from an answer. True if it is the first of those that say no.
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
            // One that was under way while another was refused does not lift what that one was told.
            if self.closed_until.is_none_or(|until| until <= now) {
                self.is_probing = false;
            }
            return false;
        }
        let max_wait = match sender {
            Sender::Gateway => MAX_WAIT,
            Sender::Client if [minute, five_minutes].contains(&Some(0)) => MAX_WAIT_AFTER_CLIENT_RESPONSE,
            Sender::Client => return false,
        };
        let said = retry_after(headers);
        let reset = self.minute.wait(Priority::Login, now).max(self.five_minutes.wait(Priority::Login, now));
        let until = now + said.or(reset).unwrap_or(DEFAULT_RETRY_AFTER).clamp(DEFAULT_RETRY_AFTER, max_wait);
        self.closed_until = Some(self.closed_until.map_or(until, |earlier| earlier.max(until)));
        !std::mem::replace(&mut self.is_probing, true)
    }

    /// How many requests of the minute under way are left: all of them once the minute that SLAS spoke of is over.
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
    fn nobody_asks_before_the_time_is_over_and_then_one_at_a_time() {
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
            "said already"
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
    fn the_less_there_is_the_fewer_may() {
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
    fn a_429_without_a_time_waits_for_the_window_or_a_second() {
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
    fn a_minute_that_is_over_has_left_all_of_the_next() {
        let (mut rate_limit, now) = (RemoteRateLimit::default(), Instant::now());
        assert_eq!(rate_limit.remaining(now), None);
        rate_limit.on_response(Sender::Gateway, StatusCode::OK, &minute("3", "10"), now);
        assert_eq!(rate_limit.remaining(now + seconds(9)), Some(3));
        assert_eq!(rate_limit.remaining(now + seconds(10)), Some(500));
    }

    #[test]
    fn a_reset_may_be_a_time_of_day() {
        let (mut rate_limit, now) = (RemoteRateLimit::default(), Instant::now());
        let at = HeaderValue::from(unix_now() + 30);
        let mut fields = minute("0", "1");
        fields.insert("x-ratelimit-1m-reset", at);
        rate_limit.on_response(Sender::Gateway, StatusCode::OK, &fields, now);
        let wait = rate_limit.admit(Priority::Login, now, &mut TokenBucket::default()).unwrap_err();
        assert!((seconds(28)..=seconds(30)).contains(&wait), "{wait:?}");
    }

    #[test]
    fn a_429_to_a_client_closes_only_what_the_fields_say_is_used_up() {
        let (mut probes, now) = (TokenBucket::default(), Instant::now());
        let said = |mut fields: HeaderMap| {
            fields.insert("retry-after", HeaderValue::from_static("900"));
            fields
        };
        for (fields, expected) in [
            (said(HeaderMap::new()), None),
            (said(minute("499", "20")), None),
            (said(headers(&[("x-ratelimit-1m-remaining", "0")])), None),
            (said(minute("0", "20")), Some(300)),
            (minute("0", "20"), Some(20)),
        ] {
            let mut rate_limit = RemoteRateLimit::default();
            rate_limit.on_response(Sender::Client, StatusCode::TOO_MANY_REQUESTS, &fields, now);
            let wait = rate_limit.admit(Priority::Login, now, &mut probes).err();
            assert_eq!(wait, expected.map(seconds), "{fields:?}");
        }
        // Nor does it make an end to what the gateway itself was told.
        let mut rate_limit = RemoteRateLimit::default();
        rate_limit.on_response(Sender::Gateway, StatusCode::TOO_MANY_REQUESTS, &headers(&[("retry-after", "30")]), now);
        rate_limit.on_response(Sender::Client, StatusCode::OK, &HeaderMap::new(), now + seconds(1));
        assert_eq!(rate_limit.admit(Priority::Login, now, &mut probes), Err(seconds(30)));
    }
}
