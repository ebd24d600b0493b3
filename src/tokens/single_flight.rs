//! SingleFlight: one piece of work at a time under each key, whoever asks for it and however many.
//!
//! Owns who works and who waits. The work runs in a task of its own, so that a caller who hangs up does not abort what
//! others wait for, or what cannot be done twice. Knows nothing of tokens.

use std::{collections::HashMap, fmt, future::Future, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::Instrument;

use crate::{correlation, time::external_wait};

/// Work under way, by key.
pub struct SingleFlight<K, T> {
    under_way: Mutex<HashMap<K, watch::Receiver<Option<T>>>>,
}

/// Whether work was begun for this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlightRole {
    /// It was begun for this one.
    Leader,
    /// It was under way already.
    Follower,
}

/// Takes a flight off the list when it ends, also by a panic.
struct FlightGuard<K: Eq + Hash, T> {
    flights: Arc<SingleFlight<K, T>>,
    key: K,
}

impl<K: Eq + Hash, T> Drop for FlightGuard<K, T> {
    fn drop(&mut self) {
        self.flights.under_way.lock().remove(&self.key);
    }
}

impl<K, T> SingleFlight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// No work under way.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self { under_way: Mutex::default() })
    }

    /// Begins the work under a key, unless it is under way, and waits for its outcome: `None` if it was
    /// abandoned. What is begun is finished, whether somebody still waits or not.
    pub async fn join<F>(self: &Arc<Self>, key: &K, work: impl FnOnce() -> F) -> (Option<T>, FlightRole)
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (mut outcome, joined) = self.subscribe(key, work);
        let landed = external_wait::track(outcome.wait_for(Option::is_some)).await;
        (landed.ok().and_then(|outcome| outcome.clone()), joined)
    }

    /// Begins the work under a key, unless it is under way, and does not wait.
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
        let mut under_way = self.under_way.lock();
        if let Some(outcome) = under_way.get(key) {
            return (outcome.clone(), FlightRole::Follower);
        }
        let (land, outcome) = watch::channel(None);
        under_way.insert(key.clone(), outcome.clone());
        drop(under_way);
        let landing = FlightGuard { flights: Arc::clone(self), key: key.clone() };
        let work = work();
        let work = async move {
            let outcome = work.await;
            drop(landing);
            // Nobody may be waiting any more.
            let _ = land.send(Some(outcome));
        };
        // In a trace, and at Salesforce, the work is of the request that came first.
        tokio::spawn(correlation::inherit(work).in_current_span());
        (outcome, FlightRole::Leader)
    }
}

impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("under_way", &self.under_way.lock().len()).finish()
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
        assert_eq!(outcomes.iter().filter(|(_, joined)| *joined == FlightRole::Leader).count(), 1);
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
