//! Polls the store, for example until another replica has released a lock or written a session.
//!
//! Time is measured with tokio's clock, which tests can pause.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// Time between two attempts of [`poll_until`].
const POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Calls `attempt` every 25 ms and returns its first result. `None`: there was none before `deadline`. The first attempt is
/// made in any case.
pub(super) async fn poll_until<T, F>(deadline: Instant, mut attempt: impl FnMut() -> F) -> Option<T>
where
    F: Future<Output = Option<T>>,
{
    loop {
        if let Some(result) = attempt().await {
            return Some(result);
        }
        if Instant::now() + POLL_INTERVAL > deadline {
            return None;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn poll_until_returns_first_result_or_none_after_deadline() {
        let (attempts, start) = (AtomicU32::new(0), Instant::now());
        let third = || async { Some(attempts.fetch_add(1, Ordering::Relaxed)).filter(|number| *number == 2) };
        assert_eq!(poll_until(start + Duration::from_secs(1), third).await, Some(2));
        assert_eq!(start.elapsed(), 2 * POLL_INTERVAL);
        let attempts = AtomicU32::new(0);
        let never = || async {
            attempts.fetch_add(1, Ordering::Relaxed);
            None::<u8>
        };
        assert_eq!(poll_until(Instant::now(), never).await, None);
        assert_eq!(attempts.load(Ordering::Relaxed), 1, "the first attempt needs no time");
        assert_eq!(poll_until(Instant::now() + 10 * POLL_INTERVAL, never).await, None);
        assert_eq!(attempts.load(Ordering::Relaxed), 12);
    }
}
