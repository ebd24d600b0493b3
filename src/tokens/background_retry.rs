//! Repeats an operation in the background until it succeeds.

use std::{future::Future, time::Duration};

/// How often, and how many times, an operation is repeated in the background.
#[derive(Debug, Clone, Copy)]
pub(super) struct RetrySchedule {
    /// Time before each attempt.
    pub(super) interval: Duration,
    /// Maximum number of attempts.
    pub(super) attempts: u32,
    /// Log message after the last attempt has failed.
    pub(super) failure_message: &'static str,
}

/// Repeats `attempt` with a clone of `state` in a task of its own, until it succeeds or the schedule's attempts are used up.
pub(super) fn retry_in_background<S, E, F>(schedule: RetrySchedule, state: S, attempt: impl Fn(S) -> F + Send + 'static)
where
    S: Clone + Send + 'static,
    F: Future<Output = Result<(), E>> + Send,
    E: std::fmt::Display + Send,
{
    tokio::spawn(async move {
        for number in 1..=schedule.attempts {
            tokio::time::sleep(schedule.interval).await;
            match attempt(state.clone()).await {
                Ok(()) => return,
                Err(error) => tracing::debug!(%error, number, "background retry failed"),
            }
        }
        tracing::error!("{}", schedule.failure_message);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retry_in_background_stops_after_success_and_after_last_attempt() {
        for (succeeds_at, expected) in [(3, 3), (u32::MAX, 5)] {
            let attempts = Arc::new(AtomicU32::new(0));
            let schedule = RetrySchedule { interval: Duration::from_secs(1), attempts: 5, failure_message: "gave up" };
            retry_in_background(schedule, Arc::clone(&attempts), move |attempts| async move {
                let number = attempts.fetch_add(1, Ordering::Relaxed) + 1;
                if number == succeeds_at { Ok(()) } else { Err("refused") }
            });
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(attempts.load(Ordering::Relaxed), expected);
        }
    }
}
