//! The time that a request spends waiting for others: for an exchange, for keys, for a turn, for the client.
//!
//! Owns the difference between the gateway's own time and everybody else's. Whoever waits for another's work wraps the wait
//! in [`track`]; whoever wants to know the sum wraps the whole in [`measure`]. Between them nothing is handed down,
//! because the one who waits may be many floors below the one who asks. Redis counts as the gateway's own.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

tokio::task_local! {
    static WAITED: Cell<Duration>;
}

/// Adds the time of a wait when it ends, also where it is given up.
struct WaitTimer(Instant);

impl Drop for WaitTimer {
    fn drop(&mut self) {
        // Outside a measured piece of work nobody wants to know.
        let _ = WAITED.try_with(|waited| waited.set(waited.get() + self.0.elapsed()));
    }
}

/// What the work gives, and how much of its time it waited for others.
pub async fn measure<F: Future>(work: F) -> (F::Output, Duration) {
    WAITED
        .scope(Cell::default(), async {
            let output = work.await;
            (output, WAITED.with(Cell::get))
        })
        .await
}

/// A wait for others.
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
