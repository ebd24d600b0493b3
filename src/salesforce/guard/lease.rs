//! The calls to SLAS that this gateway has in hand, out of the budget that it shares with others.
//!
//! Owns the counting in this process: nothing here asks a store, so that no exchange waits for one but when the hand is
//! empty. Whoever fills it ([`Purse::wanted`], [`Purse::put`], [`Purse::nothing`]) owns the budget. What is in hand is
//! lost after a while: hoarded by many gateways, it would be spent above the limit one day.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::call::Class;

/// How long calls in hand are good.
const GOOD_FOR: Duration = Duration::from_secs(10);
/// Longest wait for the purse to be filled.
const PATIENCE: Duration = Duration::from_millis(500);
/// What to wait when nobody filled it in time.
const UNKNOWN: Duration = Duration::from_secs(1);

/// Calls in hand, for each class.
#[derive(Debug)]
pub struct Purse {
    hands: Mutex<[Hand; CLASSES.len()]>,
    filled: watch::Sender<()>,
    empty: Notify,
}

#[derive(Debug, Default)]
struct Hand {
    calls: u32,
    good_until: Option<Instant>,
    /// Whether the filler was asked, and has not answered.
    is_wanted: bool,
    nothing_before: Option<Instant>,
}

const CLASSES: [Class; 5] = [Class::Login, Class::Refresh, Class::ForwardedLogin, Class::Forwarded, Class::Ahead];

/// Which hand; what is not budgeted never comes here.
fn hand(class: Class) -> usize {
    CLASSES.iter().position(|own| *own == class).unwrap_or(0)
}

impl Default for Purse {
    fn default() -> Self {
        Self { hands: Mutex::default(), filled: watch::Sender::new(()), empty: Notify::new() }
    }
}

impl Purse {
    /// Takes one call out, waiting a moment for more where the hand is empty.
    ///
    /// # Errors
    /// How long to wait.
    pub(super) async fn take(&self, class: Class) -> Result<(), Duration> {
        let mut filled = self.filled.subscribe();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            {
                let (mut hands, now) = (self.hands.lock(), Instant::now());
                let hand = &mut hands[hand(class)];
                if hand.calls > 0 && hand.good_until.is_some_and(|until| until > now) {
                    hand.calls -= 1;
                    return Ok(());
                }
                if let Some(wait) = hand.nothing_before.and_then(|time| time.checked_duration_since(now)) {
                    return Err(wait);
                }
                hand.is_wanted = true;
            }
            self.empty.notify_one();
            if !matches!(tokio::time::timeout_at(deadline, filled.changed()).await, Ok(Ok(()))) {
                return Err(UNKNOWN);
            }
        }
    }

    /// The next class that has nothing in hand and wants some.
    pub async fn wanted(&self) -> Class {
        loop {
            let wanted = self.hands.lock().iter().position(|hand| hand.is_wanted);
            match wanted {
                Some(hand) => return CLASSES[hand],
                None => self.empty.notified().await,
            }
        }
    }

    /// Puts calls into a class's hand.
    pub fn put(&self, class: Class, calls: u32) {
        let good_until = Some(Instant::now() + GOOD_FOR);
        self.hands.lock()[hand(class)] = Hand { calls, good_until, is_wanted: false, nothing_before: None };
        self.filled.send_replace(());
    }

    /// There is nothing for a class before this time has passed.
    pub fn nothing(&self, class: Class, wait: Duration) {
        let nothing_before = Some(Instant::now() + wait);
        self.hands.lock()[hand(class)] = Hand { nothing_before, ..Hand::default() };
        self.filled.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn many_share_what_is_put_in_and_the_rest_learns_how_long_to_wait() {
        let purse = Arc::new(Purse::default());
        let filler = Arc::clone(&purse);
        tokio::spawn(async move {
            for _ in 0..3 {
                assert_eq!(filler.wanted().await, Class::Login);
                filler.put(Class::Login, 10);
            }
            assert_eq!(filler.wanted().await, Class::Login);
            filler.nothing(Class::Login, Duration::from_secs(9));
        });
        let taken = futures::future::join_all((0..40).map(|_| purse.take(Class::Login))).await;
        assert_eq!(taken.iter().filter(|taken| taken.is_ok()).count(), 30);
        let waits: Vec<_> = taken.into_iter().filter_map(Result::err).collect();
        assert!(waits.iter().all(|wait| *wait > Duration::from_secs(5)), "{waits:?}");
    }

    #[tokio::test]
    async fn each_class_has_its_own_and_nobody_waits_for_ever() {
        let purse = Purse::default();
        purse.put(Class::Login, 1);
        assert_eq!(purse.take(Class::Ahead).await, Err(UNKNOWN));
        assert_eq!(purse.take(Class::Login).await, Ok(()));
    }
}
