//! The credential for a granted request: the received token, a newer one of its session, a system token, or a token on behalf
//! of a shopper.
//!
//! A credential that the gateway obtained is replaced when an API refuses it with 401. A credential of the client is not: the
//! client must replace it.

use std::sync::Arc;

use secrecy::ExposeSecret;
use tracing::Instrument;

use super::{
    credential::{RenewableToken, Source, UpstreamCredential},
    error::GatewayError,
    identity::{AuthenticatedCaller, Grant, Proof},
    tenant::Tenant,
};
use crate::{
    config,
    jwt::token_digest,
    observability::{
        audit::{AuditLog, AuditRecord, Event},
        spans,
    },
    salesforce::account_manager::AccountManager,
    tokens::{
        on_behalf::{OnBehalfSubject, OnBehalfToken, OnBehalfTokens},
        sessions::{Sessions, TokenChoice, TokenRecipient},
        system::{ClientCredentials, Presenter, SystemTokenFailure, SystemTokens},
    },
    verify::{shopper::Shopper, shopper_token::VerifiedToken},
};

/// Obtains the credentials for granted requests.
#[derive(Debug)]
pub struct UpstreamAuth {
    sessions: Arc<Sessions>,
    system_tokens: Arc<SystemTokens>,
    on_behalf: Arc<OnBehalfTokens>,
    audit: Arc<AuditLog>,
}

impl UpstreamAuth {
    /// A source of credentials from these token caches. `audit` makes the pseudonyms of shoppers.
    #[must_use]
    pub fn new(
        sessions: Arc<Sessions>,
        system_tokens: Arc<SystemTokens>,
        on_behalf: Arc<OnBehalfTokens>,
        audit: Arc<AuditLog>,
    ) -> Self {
        Self { sessions, system_tokens, on_behalf, audit }
    }

    /// Obtains the credential for a grant. `refreshes` tells whether the gateway may refresh the session of a shopper's token.
    ///
    /// # Errors
    /// [`GatewayError::TokenExpired`] and [`GatewayError::TokenInvalid`] for a token whose session has ended; the errors of SLAS,
    /// Account Manager and the store.
    pub(super) async fn obtain(
        &self,
        tenant: &Tenant,
        grant: Grant,
        refreshes: bool,
        audit: &mut AuditRecord,
    ) -> Result<UpstreamCredential, GatewayError> {
        match grant {
            Grant::Shopper(token) => self.of_shopper(token, refreshes, audit).await,
            Grant::System(caller) => Box::pin(self.of_system(tenant, *caller)).await,
            Grant::OnBehalf(caller, subject) => {
                let token = Box::pin(self.on_behalf_token(subject, audit)).await?;
                Ok(Source::OnBehalf(caller, token).into())
            }
        }
    }

    /// Returns the received token, or the newest token of its session.
    async fn of_shopper(
        &self,
        token: VerifiedToken,
        refreshes: bool,
        audit: &mut AuditRecord,
    ) -> Result<UpstreamCredential, GatewayError> {
        // A token on behalf of a shopper has its audit record already.
        if token.shopper.delegation.taob && !token.shopper.delegation.tsob {
            let agent = token.shopper.agent.as_deref().unwrap_or("agent");
            self.note_shopper(&token.shopper, Event::Agent, agent, audit);
        }
        if !refreshes {
            self.sessions.check_active(&token).instrument(spans::cache("session")).await?;
            return Ok(Source::Shopper(token.shopper).into());
        }
        match self.sessions.resolve(&token).instrument(spans::cache("session")).await? {
            TokenChoice::AsPresented => Ok(Source::Shopper(token.shopper).into()),
            TokenChoice::Refreshed(newest) => {
                Ok(Source::Session { shopper: token.shopper, token: newest, is_handed_over: true }.into())
            }
        }
    }

    async fn of_system(
        &self,
        tenant: &Tenant,
        caller: AuthenticatedCaller,
    ) -> Result<UpstreamCredential, GatewayError> {
        let AuthenticatedCaller { caller, proof } = caller;
        match proof {
            Proof::Bearer(_) => Ok(Source::Caller(caller).into()),
            Proof::Basic(Ok(token)) => Ok(Source::System(caller, token).into()),
            Proof::Basic(Err(_)) => Err(GatewayError::CallerNotAllowed),
            Proof::Certificate => Ok(Source::System(caller, self.gateways_token(tenant).await?).into()),
        }
    }

    /// Obtains a token on behalf of a shopper.
    ///
    /// # Errors
    /// [`GatewayError::ShopperUnknown`]; [`GatewayError::RequestInvalid`] if the organization has no client for it; the errors of
    /// SLAS and the store.
    pub(super) async fn on_behalf_token(
        &self,
        subject: Arc<OnBehalfSubject>,
        audit: &mut AuditRecord,
    ) -> Result<OnBehalfToken, GatewayError> {
        let organization = subject.organization.as_str();
        let token = self.on_behalf.token(&subject).instrument(spans::cache("on_behalf")).await;
        audit.shopper = match &token {
            Ok(OnBehalfToken { ready, .. }) => {
                let customer = ready.verified.shopper.customer.as_ref();
                customer.map(|customer| self.audit.pseudonym(organization, customer.as_str()))
            }
            Err(_) => Some(self.audit.pseudonym_of_login(organization, subject.shopper.login_or_usid())),
        };
        Ok(token?)
    }

    /// Returns the recipient of a token on behalf of a shopper, and notes the use of the token in the audit record. The recipient
    /// decides whether the gateway refreshes the token.
    ///
    /// # Errors
    /// The errors of the store.
    pub(super) async fn recipient(
        &self,
        token: &VerifiedToken,
        audit: &mut AuditRecord,
    ) -> Result<TokenRecipient, GatewayError> {
        self.note_shopper(&token.shopper, Event::OnBehalf, token.shopper.client.as_str(), audit);
        Ok(self.sessions.recipient(token).instrument(spans::cache("session")).await?)
    }

    fn note_shopper(&self, shopper: &Shopper, event: Event, actor: &str, audit: &mut AuditRecord) {
        audit.event = Some(event);
        audit.actor = Some(actor.to_owned());
        let customer = shopper.customer.as_ref();
        audit.shopper = customer.map(|customer| self.audit.pseudonym(shopper.organization.as_str(), customer.as_str()));
    }

    /// Obtains the system token of the gateway's own client, for callers without a token.
    async fn gateways_token(&self, tenant: &Tenant) -> Result<RenewableToken, GatewayError> {
        let none = || {
            let organization = &tenant.settings.organization;
            tracing::error!(%organization, "the gateway has no system token of its own: check tenants.account_manager");
            GatewayError::AccountManagerUnavailable { retry_after: None }
        };
        let (account_manager, own) = own_client(tenant).ok_or_else(none)?;
        // While the secret is being rotated, Account Manager accepts either of two.
        for secret in [Some(&own.client_secret), own.previous_client_secret.as_ref()].into_iter().flatten() {
            let credentials = ClientCredentials { client: own.client_id.clone(), secret: secret.clone() };
            let (key, outcome) = self
                .system_tokens
                .token(account_manager, &tenant.settings.tenant, &credentials, Presenter::Gateway, &own.scopes)
                .instrument(spans::cache("system"))
                .await;
            match outcome {
                Ok(token) => return Ok(RenewableToken { credentials, key, token, is_gateways: true }),
                Err(SystemTokenFailure::CredentialsRejected) => {}
                Err(SystemTokenFailure::Unavailable { retry_after }) => {
                    return Err(GatewayError::AccountManagerUnavailable { retry_after: Some(retry_after) });
                }
                Err(_) => break,
            }
        }
        // The gateway's credentials or scopes are wrong. The caller cannot change that.
        Err(none())
    }

    /// Replaces a credential that an API refused with 401. Returns `None` if the credential was the client's, or if there is no
    /// other.
    pub(super) async fn replace(&self, tenant: &Tenant, refused: &UpstreamCredential) -> Option<UpstreamCredential> {
        let fresh = match refused.source() {
            Source::System(caller, refused) => {
                let account_manager = tenant.account_manager.as_ref()?;
                let RenewableToken { credentials, key, token, .. } = refused;
                let token =
                    self.system_tokens.replace_rejected(account_manager, credentials, key, &token.digest).await?;
                Source::System(Arc::clone(caller), RenewableToken { token, ..refused.clone() })
            }
            Source::OnBehalf(caller, token) => {
                Source::OnBehalf(Arc::clone(caller), self.on_behalf.replace_rejected(token).await?)
            }
            Source::Session { shopper, token, is_handed_over } => {
                let refused = token_digest(token.expose_secret());
                let token = self.sessions.replace_rejected_token(&refused).await?;
                Source::Session { shopper: Arc::clone(shopper), token, is_handed_over: *is_handed_over }
            }
            Source::Shopper(_)
            | Source::Caller(_)
            | Source::Slas
            | Source::SlasClient(..)
            | Source::Reported { .. } => return None,
        };
        let fresh = UpstreamCredential::from(fresh);
        let (organization, caller) = (&tenant.settings.organization, fresh.caller_label());
        tracing::warn!(%organization, caller, "token refused by an API and replaced");
        Some(fresh)
    }
}

fn own_client(tenant: &Tenant) -> Option<(&AccountManager, &config::AccountManager)> {
    tenant.account_manager.as_ref().zip(tenant.settings.account_manager.as_ref())
}
