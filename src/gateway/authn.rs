//! Who a trusted system proves to be, and the system token that its request carries upstream.
//!
//! Owns the three proofs: a bearer token of Account Manager, Basic credentials of a client of Account Manager, which
//! are proved by exchanging them, and a client certificate. A credential of a caller's own is never forwarded but as
//! the verified bearer token that it came as.

pub mod callers;
pub mod client_cert;
pub mod on_behalf_header;

use std::sync::Arc;

use tracing::Instrument;

use super::authn::{callers::Caller, client_cert::PeerCertificate};
use crate::{
    gateway::{
        Gateway, Request, Route, Tenant,
        authorization_header::{Authorization, BasicCredentials},
        authorize::needed_by,
        error::{GatewayError, RejectionReason, RequiredToken},
        headers::{RenewableToken, UpstreamCredential},
        policy::Operation,
    },
    jwt,
    observability::{
        audit::{AuditRecord, Event},
        spans,
    },
    salesforce::account_manager::AccountManager,
    tokens::system::{ClientCredentials, Presenter, SystemTokenFailure},
    types::Scopes,
    verify::{
        HashedToken,
        system_token::{JudgedBy, SystemClient},
    },
};

/// The trusted system is none of `[[callers]]`.
const NOT_CONFIGURED: GatewayError = GatewayError::CallerRejected(RejectionReason::NotConfigured);
/// Stands for whatever is presented as a client id and is none.
const NO_CLIENT_ID: &str = "no-client-id";

/// A trusted system that has said who it is, and how it proves it.
#[derive(Debug)]
pub(in crate::gateway) struct AuthenticatedCaller {
    /// The configured caller.
    pub(in crate::gateway) caller: Arc<Caller>,
    /// Its proof.
    pub(in crate::gateway) proof: AuthMethod,
}

/// The proof of a caller.
#[derive(Debug)]
pub(in crate::gateway) enum AuthMethod {
    /// A verified token of its own.
    Bearer(Arc<SystemClient>),
    /// Credentials that Account Manager has still to accept, and the address that presents them.
    Basic(ClientCredentials, Presenter),
    /// A certificate that the listener verified.
    Certificate,
}

impl AuthenticatedCaller {
    /// Whether the caller's own token has one of these scopes, where it brought one.
    pub(in crate::gateway) fn has_one_of(&self, scopes: &Scopes) -> Result<(), GatewayError> {
        match &self.proof {
            AuthMethod::Bearer(client) if !scopes.intersects(&client.scopes) => {
                Err(GatewayError::ScopeMissing(scopes.clone()))
            }
            AuthMethod::Bearer(_) | AuthMethod::Basic(..) | AuthMethod::Certificate => Ok(()),
        }
    }
}

impl Gateway {
    /// The trusted system that a request is of. What it says is proved, but for Basic credentials, which the first
    /// exchange proves: see [`Gateway::system_lease`]. `scopes` are those that this exchange will ask for.
    pub(in crate::gateway) async fn trusted(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        scopes: &Scopes,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        match Authorization::read(&request.head.headers)? {
            Authorization::Bearer(token) if jwt::claims_to_be_of_account_manager(token.expose_secret()) => {
                let by_role = route.operation.as_ref().is_some_and(|operation| operation.is_judged_by_role());
                let judged_by = if by_role { JudgedBy::Roles } else { JudgedBy::Scopes };
                let client = self.system_client_for(tenant, token.expose_secret(), judged_by).await?;
                audit.actor = Some(client.client.to_string());
                let caller = self.callers.by_client(client.client.as_str()).ok_or(NOT_CONFIGURED)?;
                audit.actor = Some(caller.settings.name.clone());
                Ok(AuthenticatedCaller { caller: Arc::clone(caller), proof: AuthMethod::Bearer(client) })
            }
            Authorization::Bearer(token) => {
                self.verify_shopper(&HashedToken::new(token.expose_secret()), &route.organization).await?;
                Err(GatewayError::TokenKindWrong(RequiredToken::System))
            }
            Authorization::Basic(credentials) => self.claimed(tenant, request, credentials, scopes, audit).await,
            Authorization::Nothing => match request.certificate {
                Some(certificate) => self.certified(certificate, audit),
                None => Err(GatewayError::TokenMissing),
            },
        }
    }

    async fn claimed(
        &self,
        tenant: &Tenant,
        request: &Request<'_>,
        presented: BasicCredentials,
        scopes: &Scopes,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        let address = self.bounds.client_address(request);
        let caller = self.callers.by_client(&presented.user);
        // A text that is no client id has no caller.
        let client = presented.user.parse().or_else(|_| NO_CLIENT_ID.parse()).map_err(|_| NOT_CONFIGURED)?;
        let credentials = ClientCredentials { client, secret: presented.password };
        // Only a configured client's credentials are shown to Account Manager at all.
        let Some(caller) = caller else {
            if tenant.account_manager.is_none() {
                return Err(NOT_CONFIGURED);
            }
            let refused =
                self.system_tokens.reject_unknown_client(&tenant.settings.tenant, &credentials, address, scopes).await;
            return Err(match refused {
                SystemTokenFailure::CredentialsRejected => NOT_CONFIGURED,
                failure => GatewayError::of_system_token(&failure),
            });
        };
        audit.actor = Some(caller.settings.name.clone());
        Ok(AuthenticatedCaller {
            caller: Arc::clone(caller),
            proof: AuthMethod::Basic(credentials, Presenter::Client(address)),
        })
    }

    fn certified(
        &self,
        certificate: &PeerCertificate,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        audit.actor = Some(certificate.subject().to_owned()).filter(|subject| !subject.is_empty());
        let caller = self.callers.by_certificate(certificate).ok_or(NOT_CONFIGURED)?;
        audit.actor = Some(caller.settings.name.clone());
        Ok(AuthenticatedCaller { caller: Arc::clone(caller), proof: AuthMethod::Certificate })
    }

    /// The credential under which a trusted system's request to a system operation goes upstream.
    pub(in crate::gateway) async fn authorize_system(
        &self,
        tenant: &Tenant,
        trusted: AuthenticatedCaller,
        route: &Route,
        operation: &Operation,
    ) -> Result<UpstreamCredential, GatewayError> {
        let Some(security) = operation.security.iter().find(|security| security.kind.is_of_system()) else {
            return Err(GatewayError::TokenKindWrong(needed_by(operation)));
        };
        let may = trusted.caller.may_system(operation, &route.organization, route.site.as_ref());
        let lacks = |scopes: &Scopes| !security.scopes.is_empty() && !security.scopes.intersects(scopes);
        let scope_missing = || GatewayError::ScopeMissing(security.scopes.clone());
        let allowed = if may { Ok(()) } else { Err(GatewayError::CallerNotAllowed) };
        match trusted.proof {
            AuthMethod::Bearer(client) => {
                allowed?;
                if lacks(&client.scopes) {
                    Err(scope_missing())
                } else {
                    Ok(UpstreamCredential::of_caller(trusted.caller))
                }
            }
            // First who it is, then what it may: nobody learns the second without the first.
            AuthMethod::Basic(credentials, presenter) => {
                let lease = match operation.is_judged_by_role() {
                    true => self.lease_by_role(tenant, &credentials, presenter).await,
                    false => self.system_lease(tenant, &credentials, presenter, &security.scopes).await,
                };
                match lease {
                    Err(SystemTokenFailure::ScopeRejected) => Err(allowed.err().unwrap_or_else(scope_missing)),
                    Err(failure) => Err(GatewayError::of_system_token(&failure)),
                    Ok(lease) => allowed.map(|()| UpstreamCredential::of_machine(trusted.caller, lease)),
                }
            }
            AuthMethod::Certificate => {
                allowed?;
                let lease = self.own_lease(tenant).await?;
                if lacks(&lease.token.scopes) {
                    return Err(scope_missing());
                }
                Ok(UpstreamCredential::of_machine(trusted.caller, lease))
            }
        }
    }

    /// Proves a caller that has only claimed to be one: Basic credentials, by a token with one of these scopes.
    pub(in crate::gateway) async fn prove(
        &self,
        tenant: &Tenant,
        trusted: &AuthenticatedCaller,
        scopes: &Scopes,
    ) -> Result<(), GatewayError> {
        let AuthMethod::Basic(credentials, presenter) = &trusted.proof else { return Ok(()) };
        let proved = self.system_lease(tenant, credentials, *presenter, scopes).await;
        proved.map(|_| ()).map_err(|failure| match failure {
            // Account Manager refused nothing but the tenant: the client is not of this organization.
            SystemTokenFailure::ScopeRejected if scopes.is_empty() => GatewayError::CallerNotAllowed,
            SystemTokenFailure::ScopeRejected => GatewayError::ScopeMissing(scopes.clone()),
            failure => GatewayError::of_system_token(&failure),
        })
    }

    /// Proves Basic credentials, and gives a system token of theirs with one of these scopes.
    pub(in crate::gateway) async fn system_lease(
        &self,
        tenant: &Tenant,
        credentials: &ClientCredentials,
        presenter: Presenter,
        alternatives: &Scopes,
    ) -> Result<RenewableToken, SystemTokenFailure> {
        let account_manager = tenant.account_manager.as_ref().ok_or(SystemTokenFailure::CredentialsRejected)?;
        let of = &tenant.settings.tenant;
        let token = self.system_tokens.token_with_any(account_manager, of, credentials, presenter, alternatives);
        let (slot, token) = token.instrument(spans::cache("system")).await?;
        Ok(RenewableToken { credentials: credentials.clone(), slot, token })
    }

    /// The same with a token that no scope is request for: Salesforce judges by the roles of its client.
    async fn lease_by_role(
        &self,
        tenant: &Tenant,
        credentials: &ClientCredentials,
        presenter: Presenter,
    ) -> Result<RenewableToken, SystemTokenFailure> {
        let account_manager = tenant.account_manager.as_ref().ok_or(SystemTokenFailure::CredentialsRejected)?;
        let token = self.system_tokens.token_by_role(account_manager, &tenant.settings.tenant, credentials, presenter);
        let (slot, outcome) = token.instrument(spans::cache("system")).await;
        Ok(RenewableToken { credentials: credentials.clone(), slot, token: outcome? })
    }

    /// The gateway's own system token, for callers that have none.
    async fn own_lease(&self, tenant: &Tenant) -> Result<RenewableToken, GatewayError> {
        let none = || {
            let organization = &tenant.settings.organization;
            tracing::error!(%organization, "no system token of the gateway's own: see tenants.account_manager");
            GatewayError::AccountManagerUnavailable { retry_after: None }
        };
        let (account_manager, own) = own_client(tenant).ok_or_else(none)?;
        // While a secret is being replaced, nobody knows which of the two Account Manager takes at the moment.
        for secret in [Some(&own.client_secret), own.previous_client_secret.as_ref()].into_iter().flatten() {
            let credentials = ClientCredentials { client: own.client_id.clone(), secret: secret.clone() };
            let (slot, outcome) = self
                .system_tokens
                .token(account_manager, &tenant.settings.tenant, &credentials, Presenter::Gateway, &own.scopes)
                .instrument(spans::cache("system"))
                .await;
            match outcome {
                Ok(token) => return Ok(RenewableToken { credentials, slot, token }),
                Err(SystemTokenFailure::CredentialsRejected) => {}
                Err(SystemTokenFailure::Unavailable { retry_after }) => {
                    return Err(GatewayError::AccountManagerUnavailable { retry_after: Some(retry_after) });
                }
                Err(_) => break,
            }
        }
        // Our own credentials or scopes are wrong: nothing that the caller could do better.
        Err(none())
    }

    /// The client of Account Manager that a bearer token is of.
    pub(in crate::gateway) async fn system_client(
        &self,
        tenant: &Tenant,
        token: &str,
    ) -> Result<Arc<SystemClient>, GatewayError> {
        self.system_client_for(tenant, token, JudgedBy::Scopes).await
    }

    async fn system_client_for(
        &self,
        tenant: &Tenant,
        token: &str,
        judged_by: JudgedBy,
    ) -> Result<Arc<SystemClient>, GatewayError> {
        let Some(systems) = &tenant.systems else {
            return Err(GatewayError::TokenInvalid("this organization has no Account Manager configured".into()));
        };
        systems
            .verify(&HashedToken::new(token), &tenant.settings.tenant, judged_by)
            .instrument(spans::verify("account_manager"))
            .await
            .map_err(GatewayError::of_system_verdict)
    }
}

fn own_client(tenant: &Tenant) -> Option<(&AccountManager, &crate::config::AccountManager)> {
    tenant.account_manager.as_ref().zip(tenant.settings.account_manager.as_ref())
}

/// Whether a refusal is of somebody who request as a trusted system.
pub(in crate::gateway) fn refused(refusal: &GatewayError, audit: &mut AuditRecord) {
    if matches!(
        refusal,
        GatewayError::CallerRejected(_)
            | GatewayError::CallerNotAllowed
            | GatewayError::CallerMayNotCreateShoppers
            | GatewayError::CallerRateLimited { .. }
    ) {
        audit.event = Some(Event::CallerRefused);
        audit.reason = refusal.reason();
    }
}
