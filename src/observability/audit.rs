//! The audit log: who did what, for which shopper, with which result. One JSON line each.
//!
//! Owns the shape of a line, and that no shopper stands in it in clear: a shopper is named by a keyed hash, the same
//! for the same shopper as long as the key is the same. Refuses to know where the lines go: they have a target of their
//! own, which [`telemetry`](crate::observability::setup) leads to its sink.
//!
//! A stranger makes refused lines at no cost, so these are bounded for each client address and in all (`refusal_limiter`), and
//! one line a second counts those that were left out. Lines with the result `ok`, and those of operators, are never left out.

pub(super) mod file;
mod refusal_limiter;

use std::{net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::{hmac, rand};
use prometheus::IntCounter;
use secrecy::{ExposeSecret, SecretSlice};

use self::refusal_limiter::RefusalLimiter;
use crate::hex;

/// The target of audit lines.
pub const TARGET: &str = "shopper_gateway::observability::audit";
/// Bytes of a pseudonym that are written: enough that no two shoppers of an organization share one.
const PSEUDONYM_BYTES: usize = 16;
/// How often lines that were left out are counted in the log.
const LEFT_OUT_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The result of what was done.
const OK: &str = "ok";

/// Writes audit lines.
pub struct AuditLog {
    key: hmac::Key,
    refusal_limiter: Arc<RefusalLimiter>,
}

/// What an audit line tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody logged in, or tried to.
    Login,
    /// A trusted system acted on behalf of a shopper.
    OnBehalf,
    /// A trusted agent acted on behalf of a shopper.
    Agent,
    /// Somebody who is no trusted system, or may not do this, asked as one.
    CallerRefused,
    /// A trusted system wrote something with a system token, or tried to.
    SystemWrite,
    /// An operator changed what the gateway does.
    Admin,
}

/// A shopper, named so that only who has the key can tell whom it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pseudonym(String);

/// What is known of an event while a request is being decided.
#[derive(Debug, Clone, Default)]
pub struct AuditRecord {
    /// What happened; nothing worth a line if absent.
    pub event: Option<Event>,
    /// Who did it: a caller's name, a client id, an agent or a certificate's subject; unknown if absent.
    pub actor: Option<String>,
    /// For which shopper.
    pub shopper: Option<Pseudonym>,
    /// Why it was refused, where the code alone does not say.
    pub reason: Option<&'static str>,
    /// What the client has to itself of the addresses. No line names it: it bounds the client's refused lines.
    pub address: Option<IpAddr>,
}

/// Where an event took place.
#[derive(Debug, Clone, Copy)]
pub struct AuditContext<'a> {
    /// The organization.
    pub organization: &'a str,
    /// The site, where the request named one.
    pub site: Option<&'a str>,
    /// The operation.
    pub operation: &'a str,
    /// Ties the line to the access log and to Salesforce's own.
    pub correlation_id: &'a str,
}

impl Event {
    /// Its name in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::OnBehalf => "on_behalf",
            Self::Agent => "agent",
            Self::CallerRefused => "caller_refused",
            Self::SystemWrite => "system_write",
            Self::Admin => "admin",
        }
    }
}

impl AuditLog {
    /// An audit log whose pseudonyms are made with a key of this process alone, so that nobody can compare them with those
    /// of another. `left_out` counts the refused lines that are not written.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub fn new(left_out: IntCounter) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = [0; 32];
        rand::fill(&mut random)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &random),
            refusal_limiter: Arc::new(RefusalLimiter::new(left_out)),
        })
    }

    /// The same log with pseudonyms by this key.
    #[must_use]
    pub fn with_key(&self, key: &SecretSlice<u8>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret());
        Self { key, refusal_limiter: Arc::clone(&self.refusal_limiter) }
    }

    /// The pseudonym of a customer id or login id of an organization.
    #[must_use]
    pub fn pseudonym(&self, organization: &str, shopper: &str) -> Pseudonym {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(organization.as_bytes());
        context.update(&[0]);
        context.update(shopper.as_bytes());
        let tag = context.sign();
        let bytes = tag.as_ref();
        Pseudonym(hex::encode(bytes.get(..PSEUDONYM_BYTES).unwrap_or(bytes)))
    }

    /// The pseudonym of a login id, whose case does not matter.
    #[must_use]
    pub fn pseudonym_of_login(&self, organization: &str, login: &str) -> Pseudonym {
        self.pseudonym(organization, &login.to_lowercase())
    }

    /// Writes the line of an event, if there was one. `result` is `ok`, the code of a refusal, or the status that
    /// Salesforce answered with. A line with another result than `ok` may be left out, unless it is an operator's.
    pub fn write(&self, record: &AuditRecord, context: AuditContext<'_>, result: &str) {
        let Some(event) = record.event else { return };
        if result != OK && event != Event::Admin && !self.refusal_limiter.may_write(record.address) {
            return;
        }
        let AuditContext { organization, site, operation, correlation_id } = context;
        let (event, who) = (event.as_str(), record.actor.as_deref().unwrap_or("unknown"));
        let shopper = record.shopper.as_ref().map(|shopper| shopper.0.as_str());
        let reason = record.reason;
        tracing::info!(target: TARGET, event, who, organization, site, operation, shopper, result, reason, correlation_id);
    }
}

impl AuditLog {
    /// Counts in the log what was left out of it, each second, until it is dropped.
    pub async fn run_background(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LEFT_OUT_REPORT_INTERVAL).await;
            self.write_left_out();
        }
    }

    /// Writes how many refused lines were left out since the last such line, if any were.
    pub fn write_left_out(&self) {
        let lines = self.refusal_limiter.take_left_out();
        if lines > 0 {
            tracing::info!(target: TARGET, event = "refusals_left_out", lines);
        }
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuditLog").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> AuditLog {
        AuditLog::new(IntCounter::new("left_out", "left out").unwrap()).unwrap()
    }

    #[test]
    fn a_pseudonym_depends_on_key_organization_and_shopper() {
        let key = |byte: u8| SecretSlice::from(vec![byte; 32]);
        let new = |byte| log().with_key(&key(byte));
        let (one, other) = (new(1), new(2));
        let pseudonym = one.pseudonym("f_ecom_zzrf_001", "ada@example.com");
        assert_eq!(pseudonym.0.len(), 32);
        assert_eq!(pseudonym, new(1).pseudonym("f_ecom_zzrf_001", "ada@example.com"));
        assert_ne!(pseudonym, other.pseudonym("f_ecom_zzrf_001", "ada@example.com"));
        assert_ne!(pseudonym, one.pseudonym("f_ecom_zzrf_002", "ada@example.com"));
        assert_ne!(one.pseudonym("a", "bc"), one.pseudonym("ab", "c"));
    }

    #[test]
    fn without_a_key_nobody_can_compare() {
        let (one, other) = (log(), log());
        assert_ne!(one.pseudonym("o", "s"), other.pseudonym("o", "s"));
    }
}
