//! Measures the time that a request waits for others: token requests, key sets, locks, the client.
//!
//! Access logs and metrics subtract this time from the request's duration. Code that waits wraps the wait in [`track`]; the
//! server wraps the request in [`measure`]. A task-local value connects the two, so no parameter passes through the layers
//! between them. Redis counts as the gateway's own time.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

tokio::task_local! {
    static WAITED: Cell<Duration>;
}

/// Adds the time of a wait when it is dropped, so cancelled waits count too.
struct WaitTimer(Instant);

impl Drop for WaitTimer {
    fn drop(&mut self) {
        // Outside `measure`, the time is not needed.
        let _ = WAITED.try_with(|waited| waited.set(waited.get() + self.0.elapsed()));
    }
}

/// Runs `work`, and returns its output and the time that it waited for others.
pub async fn measure<F: Future>(work: F) -> (F::Output, Duration) {
    WAITED
        .scope(Cell::default(), async {
            let output = work.await;
            (output, WAITED.with(Cell::get))
        })
        .await
}

/// Runs a wait for others and adds its time to the sum of [`measure`].
pub async fn track<F: Future>(work: F) -> F::Output {
    let _wait = WaitTimer(Instant::now());
    work.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn external_waits_are_summed_including_cancelled_ones() {
        let nap = || tokio::time::sleep(Duration::from_millis(30));
        let ((), waited) = measure(async {
            track(nap()).await;
            let given_up = tokio::time::timeout(Duration::from_millis(5), track(std::future::pending::<()>())).await;
            assert!(given_up.is_err());
            nap().await;
            // Another task's waits are its own.
            tokio::spawn(track(nap())).await.unwrap();
        })
        .await;
        assert!(waited >= Duration::from_millis(35), "{waited:?}");
        let ((), none) = measure(nap()).await;
        assert_eq!(none, Duration::ZERO);
    }
}
