//! The audit log: one JSON line for each login, on-behalf access, system write and operator's change, with its result.
//!
//! No line contains a shopper's id in clear text. A keyed hash replaces it, which is stable as long as the key is. The lines
//! have their own target, which [`setup`](crate::observability::setup) writes to the audit log's destination.
//!
//! Rejected requests cost an attacker nothing, so `refusal_limiter` limits their lines per client address and in total.
//! One line a second reports the number of lines left out. Lines with the result `ok`, and lines of operators, are never left
//! out.

pub(super) mod file;
mod refusal_limiter;

use std::{net::IpAddr, sync::Arc, time::Duration};

use aws_lc_rs::{hmac, rand};
use prometheus::IntCounter;
use secrecy::{ExposeSecret, SecretSlice};

use self::refusal_limiter::RefusalLimiter;
use crate::hex;

/// The target of audit lines.
pub const TARGET: &str = "shopper_gateway::audit";
/// Length of a pseudonym in bytes. A collision within one organization is practically impossible.
const PSEUDONYM_BYTES: usize = 16;
/// How often the log reports the number of lines left out.
const LEFT_OUT_REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// The result of a successful action.
const OK: &str = "ok";

/// Writes audit lines.
pub struct AuditLog {
    key: hmac::Key,
    refusal_limiter: Arc<RefusalLimiter>,
}

/// The kind of an audited event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A login, or an attempt.
    Login,
    /// A trusted system acted on behalf of a shopper.
    OnBehalf,
    /// A trusted agent acted on behalf of a shopper.
    Agent,
    /// A caller failed to authenticate as a trusted system, or lacked the permission.
    CallerRefused,
    /// A trusted system wrote with a system token, or tried to.
    SystemWrite,
    /// An operator changed the gateway's configuration or log level.
    Admin,
}

/// A keyed hash of a shopper's id. Only holders of the key can link it to the shopper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pseudonym(String);

/// The facts about an event that the stages of a request collect.
#[derive(Debug, Clone, Default)]
pub struct AuditRecord {
    /// The kind of event. Without one, no line is written.
    pub event: Option<Event>,
    /// The acting party: a caller's name, a client id, an agent or a certificate's subject. `None` if unknown.
    pub actor: Option<String>,
    /// The shopper concerned.
    pub shopper: Option<Pseudonym>,
    /// The reason for the rejection, if the error code alone does not tell it.
    pub reason: Option<&'static str>,
    /// The client's address, or the IPv6 network that it owns. It limits the client's rejected lines, and no line contains it.
    pub address: Option<IpAddr>,
}

/// The request that an event belongs to.
#[derive(Debug, Clone, Copy)]
pub struct AuditContext<'a> {
    /// The organization.
    pub organization: &'a str,
    /// The site, if the request names one.
    pub site: Option<&'a str>,
    /// The operation.
    pub operation: &'a str,
    /// The correlation id, as in the access log and in Salesforce's logs.
    pub correlation_id: &'a str,
}

impl Event {
    /// Returns the event's name in the log.
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
    /// Creates an audit log with a random key, so its pseudonyms cannot be compared with those of another process. `left_out`
    /// counts the lines of rejected requests that are not written.
    ///
    /// # Errors
    /// If the operating system provides no random bytes.
    pub fn new(left_out: IntCounter) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let mut random = [0; 32];
        rand::fill(&mut random)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &random),
            refusal_limiter: Arc::new(RefusalLimiter::new(left_out)),
        })
    }

    /// Returns the same log with pseudonyms under this key.
    #[must_use]
    pub fn with_key(&self, key: &SecretSlice<u8>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret());
        Self { key, refusal_limiter: Arc::clone(&self.refusal_limiter) }
    }

    /// Returns the pseudonym of a customer id or login id of an organization.
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

    /// Returns the pseudonym of a login id, regardless of case.
    #[must_use]
    pub fn pseudonym_of_login(&self, organization: &str, login: &str) -> Pseudonym {
        self.pseudonym(organization, &login.to_lowercase())
    }

    /// Writes the line of the event, if the record has one. `result` is `ok`, an error code, or the status of Salesforce's
    /// response. The limiter may leave out lines with another result than `ok`, except those of operators.
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
    /// Reports the number of lines left out, every second, until the task is aborted.
    pub async fn run_background(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LEFT_OUT_REPORT_INTERVAL).await;
            self.write_left_out();
        }
    }

    /// Writes the number of lines left out since the previous report, if it is not zero.
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
    fn pseudonym_depends_on_key_organization_and_shopper() {
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
    fn pseudonym_without_configured_key_differs_per_process() {
        let (one, other) = (log(), log());
        assert_ne!(one.pseudonym("o", "s"), other.pseudonym("o", "s"));
    }
}
