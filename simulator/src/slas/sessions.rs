//! The state of SLAS: codes, refresh tokens, guests, revocations, one-time tokens.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::identifiers;
use crate::limits::Windows;
use crate::shopper_token::{Identity, ShopperToken};

/// The data that all tokens of one login share.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) organization: String,
    pub(crate) client_id: String,
    /// Absent until the token request names it: `/authorize` needs none.
    pub(crate) site: Option<String>,
    pub(crate) usid: String,
    pub(crate) identity: Identity,
    pub(crate) marks: Vec<(String, String)>,
    /// The B2C Commerce session that the cookie `dwsid` names.
    pub(crate) commerce_session: String,
    /// Of logins with a password or at an identity provider.
    pub(crate) provider_tokens: Option<ProviderTokens>,
    /// `dnt` of the latest token request, which is not kept for the next one.
    pub(crate) do_not_track: Option<bool>,
}

/// The tokens of the identity provider that logged the shopper in.
#[derive(Clone, Debug)]
pub(crate) struct ProviderTokens {
    pub(crate) access: String,
    pub(crate) refresh: Option<String>,
}

impl Session {
    /// TSOB sessions of a shopper are apart from the others.
    pub(crate) fn is_tsob(&self) -> bool {
        self.has_mark("tsob")
    }

    /// Trusted agents' sessions are not tracked, unless the agent asks for it.
    pub(crate) fn is_taob(&self) -> bool {
        self.has_mark("taob")
    }

    pub(crate) fn has_mark(&self, name: &str) -> bool {
        self.marks.iter().any(|(mark, _)| mark == name)
    }
}

/// An authorization code, waiting for its exchange.
pub(crate) struct Code {
    pub(crate) session: Session,
    pub(crate) redirect_uri: String,
    pub(crate) challenge: Option<String>,
    pub(crate) expires: u64,
}

/// The data of a refresh token.
#[derive(Clone)]
pub(crate) struct Refresh {
    pub(crate) session: Session,
    /// Serial number of its issue, to compare with credential changes.
    pub(crate) issued: u64,
    pub(crate) expires: u64,
}

/// The purpose of a one-time token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// `/passwordless/token`.
    Passwordless,
    /// `/password/action`.
    PasswordReset,
    /// `/otp/verify`.
    Otp,
}

/// A one-time token on its way to the shopper, as SLAS would mail it.
#[derive(Clone, Debug, Serialize)]
pub struct Delivery {
    /// The purpose.
    pub purpose: Purpose,
    /// The organization.
    pub organization: String,
    /// The recipient.
    pub user_id: String,
    /// `callback`, `sms` or `email`.
    pub mode: String,
    /// The callback URI, to which SLAS would have posted it.
    pub callback_uri: Option<String>,
    /// The token itself.
    pub token: String,
}

/// A one-time token, waiting for its use.
#[derive(Clone)]
pub(crate) struct OneTime {
    pub(crate) purpose: Purpose,
    pub(crate) organization: String,
    pub(crate) client_id: String,
    pub(crate) site: String,
    pub(crate) user_id: String,
    pub(crate) usid: Option<String>,
    pub(crate) challenge: Option<String>,
    /// The customer to create when the token is used.
    pub(crate) registration: Option<(String, String, String)>,
    pub(crate) expires: u64,
}

/// A trusted agent during Account Manager's login.
pub(crate) struct PendingAgent {
    pub(crate) organization: String,
    pub(crate) client_id: String,
    pub(crate) login_id: String,
    pub(crate) challenge: Option<String>,
    pub(crate) state: String,
}

/// The state of SLAS.
#[derive(Default)]
pub(crate) struct Sessions {
    codes: HashMap<String, Code>,
    challenges: HashSet<String>,
    refreshes: HashMap<String, Refresh>,
    guests: HashMap<(String, String), String>,
    revoked: HashSet<String>,
    valid_from: HashMap<(String, String, bool), u64>,
    one_time: HashMap<(String, String), OneTime>,
    pub(crate) agents: Vec<PendingAgent>,
    pub(crate) agent_codes: HashSet<String>,
    pub(crate) outbox: Vec<Delivery>,
    pub(crate) logins: Windows<(String, String)>,
    pub(crate) on_behalf: Windows<(String, String, String)>,
}

impl Sessions {
    /// The guest customer id of a USID, generated at its first use.
    pub(crate) fn guest_of(&mut self, organization: &str, usid: &str) -> String {
        let key = (organization.to_owned(), usid.to_owned());
        self.guests.entry(key).or_insert_with(identifiers::customer).clone()
    }

    /// Marks a challenge as used. Returns false for one that was used before.
    pub(crate) fn claim_challenge(&mut self, challenge: &str) -> bool {
        self.challenges.insert(challenge.to_owned())
    }

    pub(crate) fn keep_code(&mut self, code: Code) -> String {
        let name = identifiers::opaque();
        self.codes.insert(name.clone(), code);
        name
    }

    /// Removes a code at its first use, even if the exchange fails.
    pub(crate) fn take_code(&mut self, name: &str) -> Option<Code> {
        self.codes.remove(name)
    }

    pub(crate) fn keep_refresh(&mut self, refresh: Refresh) -> String {
        let name = format!("{}.{}", identifiers::opaque(), identifiers::opaque());
        self.refreshes.insert(name.clone(), refresh);
        name
    }

    pub(crate) fn refresh(&self, name: &str) -> Option<Refresh> {
        self.refreshes.get(name).cloned()
    }

    /// Removes a refresh token. Returns false if it was absent.
    pub(crate) fn drop_refresh(&mut self, name: &str) -> bool {
        self.refreshes.remove(name).is_some()
    }

    pub(crate) fn revoke(&mut self, token: &ShopperToken) {
        self.revoked.insert(token.jti.clone());
    }

    /// Ends all sessions of a customer that are with or without a TSOB mark.
    pub(crate) fn end_all(&mut self, tenant: &str, customer: &str, tsob: bool, serial: u64) {
        self.refreshes.retain(|_, refresh| {
            let session = &refresh.session;
            session.identity.customer_id() != customer
                || session.is_tsob() != tsob
                || crate::seed::tenant_of(&session.organization) != tenant
        });
        self.invalidate_before(tenant, customer, tsob, serial);
    }

    /// Invalidates tokens issued before a change of credentials. Refresh tokens stay known, so
    /// that the response to their use names the reason.
    pub(crate) fn credentials_changed(&mut self, tenant: &str, customer: &str, serial: u64) {
        self.invalidate_before(tenant, customer, false, serial);
        self.invalidate_before(tenant, customer, true, serial);
    }

    fn invalidate_before(&mut self, tenant: &str, customer: &str, tsob: bool, serial: u64) {
        let key = (tenant.to_owned(), customer.to_owned(), tsob);
        self.valid_from.insert(key, serial);
    }

    /// Whether a token of this customer, issued at that time, is invalid now.
    pub(crate) fn is_stale(&self, tenant: &str, customer: &str, tsob: bool, issued: u64) -> bool {
        let key = (tenant.to_owned(), customer.to_owned(), tsob);
        self.valid_from.get(&key).is_some_and(|from| issued < *from)
    }

    pub(crate) fn is_revoked(&self, token: &ShopperToken) -> bool {
        let customer = token.identity.customer_id();
        let stale = |issued| self.is_stale(&token.tenant, customer, token.has_mark("tsob"), issued);
        self.revoked.contains(&token.jti) || token.serial.is_some_and(stale)
    }

    /// Stores a one-time token. A newer one for the same purpose and shopper invalidates it.
    pub(crate) fn keep_one_time(&mut self, token: &str, one_time: OneTime) {
        self.one_time.retain(|_, other| {
            other.purpose != one_time.purpose
                || other.user_id != one_time.user_id
                || other.organization != one_time.organization
        });
        let key = (one_time.organization.clone(), token.to_owned());
        self.one_time.insert(key, one_time);
    }

    pub(crate) fn one_time(&self, organization: &str, token: &str) -> Option<OneTime> {
        let key = (organization.to_owned(), token.to_owned());
        self.one_time.get(&key).cloned()
    }

    pub(crate) fn drop_one_time(&mut self, organization: &str, token: &str) {
        let key = (organization.to_owned(), token.to_owned());
        self.one_time.remove(&key);
    }
}
