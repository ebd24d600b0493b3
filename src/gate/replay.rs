//! A second credential for a request whose first one an API refused.
//!
//! Owns when a token that the gateway put into a request is replaced: exactly that one, and no more often than once a
//! second, so that an API that refuses everything does not make a storm of exchanges. What the caller itself presented
//! is the caller's to replace.

use std::time::Duration;

use super::{
    Gate, Route,
    forward::{Credential, Origin, SystemLease},
};
use crate::{
    jwt::{TokenDigest, sha256},
    tokens::pace::Pace,
};

/// At most one replacement of one client's or shopper's token in this time.
const ONE_EACH: Duration = Duration::from_secs(1);

/// The pace of replacements.
#[must_use]
pub fn pace() -> Pace<TokenDigest> {
    Pace::new(1, ONE_EACH)
}

impl Gate {
    /// Another credential of the same kind, in place of one that an API refused with 401; `None` if the first was not
    /// the gateway's, was replaced a moment ago, or there is no other.
    pub async fn replacement(&self, route: &Route, refused: &Credential) -> Option<Credential> {
        let tenant = self.tenants.get(&route.organization)?;
        let whose = whose(refused)?;
        if self.replacements.may(&whose).is_err() {
            return None;
        }
        self.replacements.count(&whose);
        let fresh = match refused.origin() {
            Origin::Machine(caller, lease) => {
                let account_manager = tenant.account_manager.as_ref()?;
                let SystemLease { credentials, slot, token } = lease;
                let token = self.machine.replace(account_manager, credentials, slot, &token.digest).await.ok()?;
                let lease = SystemLease { credentials: credentials.clone(), slot: slot.clone(), token };
                Credential::of_machine(caller.clone(), lease)
            }
            Origin::OnBehalf(caller, token) => {
                Credential::on_behalf(caller.clone(), self.on_behalf.replace(token).await.ok()?)
            }
            Origin::Session(shopper, token) => {
                let digest = crate::jwt::token_digest(secrecy::ExposeSecret::expose_secret(token));
                Credential::of_session(shopper.clone(), self.sessions.after_refusal(&digest).await.ok()?)
            }
            Origin::Shopper(_)
            | Origin::Caller(_)
            | Origin::Slas
            | Origin::SlasClient(..)
            | Origin::Reported { .. } => return None,
        };
        tracing::warn!(organization = %route.organization, caller = fresh.caller_label(), "an API refused a token of the gateway's; replaced");
        Some(fresh)
    }
}

/// Names whose token it is, the same before and after a replacement.
fn whose(credential: &Credential) -> Option<TokenDigest> {
    match credential.origin() {
        Origin::Machine(_, lease) => Some(lease.slot.digest()),
        Origin::OnBehalf(_, token) => Some(token.name),
        Origin::Session(shopper, _) => Some(sha256(format!("session|{}", shopper.usid))),
        Origin::Shopper(_) | Origin::Caller(_) | Origin::Slas | Origin::SlasClient(..) | Origin::Reported { .. } => {
            None
        }
    }
}
