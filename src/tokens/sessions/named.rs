//! Sessions that the gateway finds by a name of its own: those of shoppers on whose behalf trusted systems act.
//!
//! Owns the way from a name to a living token. Who may ask for which name, and how a session that is not there
//! comes to be, is [`on_behalf`](super::super::on_behalf)'s affair.

use std::sync::Arc;

use secrecy::SecretString;

use super::{InUse, Known, SessionError, Sessions, refresh::Outcome};
use crate::{
    clock::unix_now,
    jwt::TokenDigest,
    names::SiteId,
    salesforce::{guard::Class, slas::TokenAnswer},
    shopper::verify::VerifiedToken,
    store::{Claim, Found, Session, StoreError},
};

/// So many exchanges long nobody else makes a session that somebody has begun to make. Whoever dies meanwhile holds
/// up the others for no longer, and they still have time for a call of their own.
const CLAIMED_EXCHANGES: u32 = 2;

impl Sessions {
    /// Begins a session under a name; `None` if the answer has no refresh token.
    pub(in crate::tokens) async fn begin_named(
        self: &Arc<Self>,
        name: &TokenDigest,
        site: &SiteId,
        token: &VerifiedToken,
        answer: &TokenAnswer,
    ) -> Option<Arc<InUse>> {
        let session = self.session_of(site, token, answer, Some(name))?;
        Some(self.put(session).await)
    }

    /// The session of a name, asking the store where this process has not seen it.
    pub(in crate::tokens) async fn named(&self, name: &TokenDigest) -> Result<Option<Arc<InUse>>, StoreError> {
        if let Some(Known::Session(in_use)) = self.known.get(name) {
            return Ok(Some(in_use));
        }
        match self.store.find(name).await? {
            Found::Session(session, used_at) => {
                let in_use = Arc::new(InUse::new(session, used_at));
                self.known.insert(*name, Known::Session(Arc::clone(&in_use)));
                Ok(Some(in_use))
            }
            Found::Ended | Found::Nothing => Ok(None),
        }
    }

    /// A living token of a named session. One that is due is renewed behind the request; only one that has ended
    /// is waited for.
    pub(in crate::tokens) async fn newest_of(
        self: &Arc<Self>,
        in_use: &Arc<InUse>,
    ) -> Result<SecretString, SessionError> {
        let now = unix_now();
        let session = in_use.session.load_full();
        if self.is_idle(in_use, now).await.unwrap_or(false) {
            return Err(SessionError::Lapsed);
        }
        self.used(in_use, now).await;
        let ahead = InUse::ahead(&session, self.settings.refresh_ahead);
        if session.access_ends_at > now {
            if session.access_ends_at <= now + ahead && !in_use.has_just_failed(now) {
                self.renew_behind(in_use);
            }
            return Ok(session.access_token.clone());
        }
        newest(self.renew(in_use, session.version, Class::Refresh).await)
    }

    /// Another token in place of one that an API refused: a newer one that is there or on its way, or a fresh one for all
    /// who were refused. No more than one a second is fetched for it; `None` if there is no other.
    pub(in crate::tokens) async fn replace_refused(
        self: &Arc<Self>,
        in_use: &Arc<InUse>,
        refused: &TokenDigest,
    ) -> Result<Option<SecretString>, SessionError> {
        let is_refused = |session: &Session| session.tokens.last() == Some(refused);
        let session = self.renew_refused(in_use, refused).await?;
        Ok((!is_refused(&session)).then(|| session.access_token.clone()))
    }

    /// The same for a session that is known here by the refused token.
    pub async fn after_refusal(self: &Arc<Self>, refused: &TokenDigest) -> Option<SecretString> {
        let Some(Known::Session(in_use)) = self.known.get(refused) else { return None };
        self.replace_refused(&in_use, refused).await.ok()?
    }

    /// Ends a named session that its own shopper or SLAS has ended, so that the name is free again.
    pub(in crate::tokens) fn forget_name(&self, name: &TokenDigest) {
        self.known.remove(name);
    }

    /// Asks for the right to make the session of a name.
    pub(in crate::tokens) async fn claim(&self, name: &TokenDigest) -> Result<Option<Claim>, StoreError> {
        self.store.claim(name, self.exchange * CLAIMED_EXCHANGES).await
    }

    /// Gives that right back.
    pub(in crate::tokens) async fn release(&self, name: &TokenDigest, claim: Claim) {
        // A right that is not given back ends with its lease.
        let _ = self.store.release(name, claim).await;
    }
}

fn newest(session: Outcome) -> Result<SecretString, SessionError> {
    session.map(|session| session.access_token.clone())
}
