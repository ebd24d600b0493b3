//! The time windows in which SLAS accepts one login of a shopper and answers the next with 409.
//!
//! Logins of one shopper are sent one after the other, from all replicas: each reserves a slot in the store. Another client
//! may log in the same shopper at SLAS directly, so a 409 is still possible and is retried after the window. If the store
//! cannot be reached, only these retries remain.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use super::sessions::Sessions;
use crate::{
    salesforce::error::SalesforceError,
    time::{external_wait, random_fraction},
};

/// The window of password logins: SLAS refuses a second one with the same login id within a second. The window is a little
/// longer, because requests that are sent a second apart may arrive closer to each other.
pub const PASSWORD_LOGIN: SlasWindow =
    SlasWindow { kind: "", window: Duration::from_millis(1100), max_retries: 1, jitter: 0.25 };
/// The window of tokens on behalf of a shopper: SLAS refuses a second one within three seconds.
pub const ON_BEHALF: SlasWindow =
    SlasWindow { kind: "tsob|", window: Duration::from_millis(3100), max_retries: u32::MAX, jitter: 0.1 };

/// A window of SLAS, and how conflicts in it are retried.
#[derive(Debug, Clone, Copy)]
pub struct SlasWindow {
    /// Keeps the slots of different windows apart.
    kind: &'static str,
    window: Duration,
    max_retries: u32,
    /// Random addition to the pause before a retry, as a part of the window.
    jitter: f64,
}

impl SlasWindow {
    /// How long a window is.
    #[must_use]
    pub fn length(self) -> Duration {
        self.window
    }

    /// Reserves the next slot of a shopper, who is `login` at `provider` (an organization, or one of its identity
    /// providers), and waits for it.
    ///
    /// # Errors
    /// [`SalesforceError::Conflict`] if the slot begins after `latest_start`; no slot is reserved then.
    pub async fn wait_for_slot(
        self,
        sessions: &Sessions,
        provider: &str,
        login: &str,
        latest_start: Instant,
    ) -> Result<(), SalesforceError> {
        let key = format!("{}{provider}|{}", self.kind, login.to_lowercase());
        let max_wait = latest_start.saturating_duration_since(Instant::now());
        let wait = sessions.reserve_login_slot(&key, self.window, max_wait).await.ok_or(SalesforceError::Conflict)?;
        external_wait::track(tokio::time::sleep(wait)).await;
        Ok(())
    }

    /// Calls `attempt`, and again one window after each conflict, unless that is after `latest_start`.
    ///
    /// # Errors
    /// The last attempt's error.
    pub async fn retry_conflicts<T, F>(
        self,
        latest_start: Instant,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, SalesforceError>
    where
        F: Future<Output = Result<T, SalesforceError>>,
    {
        let mut retries = 0;
        loop {
            match attempt().await {
                Err(SalesforceError::Conflict)
                    if retries < self.max_retries && Instant::now() + self.window < latest_start =>
                {
                    retries += 1;
                    let pause = self.window.mul_f64(1.0 + self.jitter * random_fraction());
                    external_wait::track(tokio::time::sleep(pause)).await;
                }
                outcome => return outcome,
            }
        }
    }
}
