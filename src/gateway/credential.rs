//! The credential of a request on its way upstream.
//!
//! [`UpstreamCredential`] has no public constructor. Only the stages of the pipeline make one, so that no request is
//! forwarded as authorized without a check.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::callers::Caller;
use crate::{
    jwt::bearer,
    tokens::{
        on_behalf::OnBehalfToken,
        system::{ClientCredentials, SystemToken, TokenKey},
    },
    verify::shopper::Shopper,
};

/// The credential of a request on its way upstream, and where it comes from.
#[derive(Debug, Clone)]
pub struct UpstreamCredential(Source);

/// Where an upstream credential comes from.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The shopper's verified token, as received.
    Shopper(Arc<Shopper>),
    /// The newest token of the shopper's session, in place of the received one.
    Session {
        /// The shopper.
        shopper: Arc<Shopper>,
        /// The token.
        token: SecretString,
        /// Whether the client gets the token too.
        is_handed_over: bool,
    },
    /// A trusted system's verified token, as received.
    Caller(Arc<Caller>),
    /// A system token that the gateway obtained for a trusted system.
    System(Arc<Caller>, RenewableToken),
    /// A token on behalf of a shopper, in place of the trusted system's credential.
    OnBehalf(Arc<Caller>, OnBehalfToken),
    /// The credential that the client sent to SLAS. SLAS checks it.
    Slas,
    /// The credential of a private SLAS client, in the field where SLAS expects it.
    SlasClient(HeaderName, HeaderValue),
    /// A rejected request that report mode forwards. A Basic credential does not reach an API: it is a secret of a trusted
    /// system.
    Reported {
        /// Whether the gateway removes `Authorization`.
        strips_authorization: bool,
    },
}

/// A system token that the gateway obtained, with what a replacement needs.
#[derive(Debug, Clone)]
pub struct RenewableToken {
    pub(super) credentials: ClientCredentials,
    pub(super) key: TokenKey,
    pub(super) token: Arc<SystemToken>,
    /// Whether the token belongs to the gateway's own client, not to the caller's.
    pub(super) is_gateways: bool,
}

impl From<Source> for UpstreamCredential {
    fn from(source: Source) -> Self {
        Self(source)
    }
}

impl UpstreamCredential {
    /// Returns where the credential comes from.
    pub(super) fn source(&self) -> &Source {
        &self.0
    }

    /// The same credential, which no response contains.
    #[must_use]
    pub(super) fn without_hand_over(mut self) -> Self {
        if let Source::Session { is_handed_over, .. } = &mut self.0 {
            *is_handed_over = false;
        }
        self
    }

    /// Whether the gateway removes the received `Authorization`.
    #[must_use]
    pub fn strips_authorization(&self) -> bool {
        matches!(self.0, Source::Reported { strips_authorization: true })
    }

    /// Returns the `Authorization` to send upstream in place of the received one.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        match &self.0 {
            Source::Session { token, .. } => bearer(token),
            Source::System(_, token) => Some(token.token.authorization.clone()),
            Source::OnBehalf(_, token) => Some(token.ready.authorization.clone()),
            Source::Shopper(_)
            | Source::Caller(_)
            | Source::Slas
            | Source::SlasClient(..)
            | Source::Reported { .. } => None,
        }
    }

    /// Returns the field that authenticates a SLAS client. No response contains it.
    #[must_use]
    pub fn slas_client_field(&self) -> Option<(&HeaderName, &HeaderValue)> {
        match &self.0 {
            Source::SlasClient(field, value) => Some((field, value)),
            _ => None,
        }
    }

    /// Returns the `Authorization` for the client: the newest token of the client's own session. A token that the gateway
    /// obtained for a trusted system never leaves the gateway.
    #[must_use]
    pub fn response_authorization(&self) -> Option<HeaderValue> {
        match &self.0 {
            Source::Session { token, is_handed_over: true, .. } => bearer(token),
            Source::Session { .. }
            | Source::Shopper(_)
            | Source::Caller(_)
            | Source::System(..)
            | Source::OnBehalf(..)
            | Source::Slas
            | Source::SlasClient(..)
            | Source::Reported { .. } => None,
        }
    }

    /// Returns the USID of the guest on whose behalf a trusted system acts. The response names it, so that the caller can
    /// continue the guest's session.
    #[must_use]
    pub fn guest_usid(&self) -> Option<HeaderValue> {
        match &self.0 {
            Source::OnBehalf(_, token) => HeaderValue::from_str(token.guest()?.as_str()).ok(),
            _ => None,
        }
    }

    /// Whether the gateway put the token into the request, so that it can replace the token.
    #[must_use]
    pub fn is_injected(&self) -> bool {
        matches!(self.0, Source::Session { .. } | Source::System(..) | Source::OnBehalf(..))
    }

    /// Returns the sender for metrics and logs: a kind of sender, or the name of a configured caller.
    #[must_use]
    pub fn caller_label(&self) -> &str {
        match &self.0 {
            Source::Shopper(shopper) | Source::Session { shopper, .. } if shopper.is_registered => "registered",
            Source::Shopper(_) | Source::Session { .. } => "guest",
            Source::Caller(caller) | Source::System(caller, _) | Source::OnBehalf(caller, _) => &caller.settings.name,
            Source::Slas | Source::SlasClient(..) => "slas",
            Source::Reported { .. } => "reported",
        }
    }
}
