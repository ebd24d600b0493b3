//! Single-flight: concurrent callers with the same key share one run of the work.
//!
//! The work runs in a task of its own. A caller that hangs up does not abort work that others wait for, or that cannot
//! be repeated.

use std::{collections::HashMap, fmt, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument;

use crate::{correlation, time::external_wait};

/// Work in progress, by key.
pub struct SingleFlight<K, T> {
    in_progress: Mutex<HashMap<K, watch::Receiver<Option<T>>>>,
}

/// The role of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlightRole {
    /// The work was started for this caller.
    Leader,
    /// The work was in progress already.
    Follower,
}

/// Removes the work when it ends, also by a panic.
struct FlightGuard<K: Eq + Hash, T> {
    flights: Arc<SingleFlight<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for FlightGuard<K, T> {
    fn drop(&mut self) {
        self.flights.in_progress.lock().remove(&self.key);
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// A group without work in progress.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { in_progress: Mutex::default() })
    }

    /// Starts the work of a key, unless it is in progress, and waits for its result. `None` if the work has panicked.
    /// Work that was started is completed even if no caller waits.
    pub async fn join<F>(self: &Arc<Self>, key: &K, work: impl FnOnce() -> F) -> (Option<T>, FlightRole)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut outcome, role) = self.subscribe(key, work);
        let result = external_wait::track(outcome.wait_for(Option::is_some)).await;
        (result.ok().and_then(|outcome| outcome.clone()), role)
    }

    /// Starts the work of a key, unless it is in progress, and does not wait.
    pub fn start<F>(self: &Arc<Self>, key: &K, work: impl FnOnce() -> F)
    where
        F: Future<Output = T> + Send + 'static,
    {
        self.subscribe(key, work);
    }

    fn subscribe<F>(self: &Arc<Self>, key: &K, work: impl FnOnce() -> F) -> (watch::Receiver<Option<T>>, FlightRole)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut in_progress = self.in_progress.lock();
        if let Some(outcome) = in_progress.get(key) {
            return (outcome.clone(), FlightRole::Follower);
        }
        let (sender, outcome) = watch::channel(None);
        in_progress.insert(key.clone(), outcome.clone());
        drop(in_progress);
        let guard = FlightGuard { flights: Arc::clone(self), key: key.clone() };
        let work = work();
        let work = async move {
            let outcome = work.await;
            drop(guard);
            // An error means that no caller waits any more.
            let _ = sender.send(Some(outcome));
        };
        // In traces and at Salesforce, the work has the correlation id of the request that started it.
        tokio::spawn(correlation::inherit(work).in_current_span());
        (outcome, FlightRole::Leader)
    }
}

impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("under_way", &self.in_progress.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn concurrent_callers_share_one_run() {
        let (flights, worked) = (SingleFlight::new(), Arc::new(AtomicUsize::new(0)));
        let ask = || {
            let worked = Arc::clone(&worked);
            flights.join(&"key", move || async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                worked.fetch_add(1, Ordering::Relaxed) + 1
            })
        };
        let outcomes = futures::future::join_all((0..100).map(|_| ask())).await;
        assert!(outcomes.iter().all(|(outcome, _)| *outcome == Some(1)));
        assert_eq!(outcomes.iter().filter(|(_, role)| *role == FlightRole::Leader).count(), 1);
        assert_eq!(ask().await.0, Some(2), "the next begins anew");
    }

    #[tokio::test]
    async fn work_continues_after_caller_hangs_up() {
        let (flights, (write_revocation, told)) = (SingleFlight::new(), tokio::sync::oneshot::channel());
        let work = || async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            write_revocation.send(()).unwrap();
        };
        let hung_up = tokio::time::timeout(Duration::from_millis(1), flights.join(&1, work)).await;
        assert!(hung_up.is_err());
        told.await.unwrap();
    }

    #[tokio::test]
    async fn panic_of_work_allows_the_next_run() {
        let flights = SingleFlight::new();
        let (outcome, _) = flights.join(&1, || async { panic!("on purpose") }).await;
        assert_eq!(outcome, None::<u8>);
        assert_eq!(flights.join(&1, || async { 2 }).await.0, Some(2));
    }
}
