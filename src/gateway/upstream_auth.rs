//! A second credential for a request whose first one an API refused.
//!
//! Owns which tokens are replaced: those that the gateway put into a request. Whoever holds them knows how, and how
//! often at most. What the caller itself presented is the caller's to replace.

use secrecy::ExposeSecret;

use super::{
    Gateway, Route,
    headers::{Origin, RenewableToken, UpstreamCredential},
};
use crate::jwt::token_digest;

impl Gateway {
    /// Another credential of the same kind, in place of one that an API refused with 401; `None` if the first was not
    /// the gateway's, or there is no other.
    pub async fn replacement(&self, route: &Route, refused: &UpstreamCredential) -> Option<UpstreamCredential> {
        let tenant = self.tenants.get(&route.organization)?;
        let fresh = match refused.origin() {
            Origin::Machine(caller, lease) => {
                let account_manager = tenant.account_manager.as_ref()?;
                let RenewableToken { credentials, slot, token } = lease;
                let token =
                    self.system_tokens.replace_rejected(account_manager, credentials, slot, &token.digest).await?;
                let lease = RenewableToken { credentials: credentials.clone(), slot: slot.clone(), token };
                UpstreamCredential::of_machine(caller.clone(), lease)
            }
            Origin::OnBehalf(caller, token) => {
                UpstreamCredential::on_behalf(caller.clone(), self.on_behalf.replace_rejected(token).await?)
            }
            Origin::Session(shopper, token) => {
                let refused = token_digest(token.expose_secret());
                UpstreamCredential::of_session(shopper.clone(), self.sessions.replace_rejected_token(&refused).await?)
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
