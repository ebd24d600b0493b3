//! Authentication: establishes the sender of a request.
//!
//! A shopper proves its identity by a verified SLAS token. A trusted system does so by a token of Account Manager, by client
//! credentials that Account Manager accepts, or by a client certificate. Most requests bring a shopper token that was verified
//! before. `Authenticator::identify` answers these from the cache, and boxes the futures of all others.

use std::sync::Arc;

use tracing::Instrument;

use super::{
    authorization_header::{Authorization, BasicCredentials},
    callers::{Caller, Callers},
    credential::RenewableToken,
    error::{GatewayError, RejectionReason, RequiredToken},
    identity::{AuthenticatedCaller, Identity, Proof, ScopeRejected},
    on_behalf_header::{self, OnBehalfHeader},
    policy::Operation,
    request::RoutedRequest,
    tenant::Tenant,
};
use crate::{
    jwt,
    observability::{
        audit::{AuditRecord, Event},
        spans,
    },
    store::CallerEntry,
    tokens::system::{ClientCredentials, Presenter, SystemTokenFailure, SystemTokens},
    types::{OrganizationId, Scopes},
    verify::{
        HashedToken,
        shopper_token::{ShopperVerifier, VerifiedToken},
        system_token::{AuthorizationModel, SystemClient},
    },
};

/// The trusted system is not in `[[callers]]`.
const NOT_CONFIGURED: GatewayError = GatewayError::CallerRejected(RejectionReason::NotConfigured);
/// The client id in place of a user name that is not a client id.
const NO_CLIENT_ID: &str = "no-client-id";

/// Establishes the sender of a request.
#[derive(Debug)]
pub struct Authenticator {
    callers: Arc<Callers>,
    shoppers: Arc<ShopperVerifier>,
    system_tokens: Arc<SystemTokens>,
}

/// The token that Account Manager issues to prove client credentials.
#[derive(Clone, Copy)]
enum Exchange<'a> {
    /// A token with one of these scopes.
    Scopes(&'a Scopes),
    /// A token without scopes. Salesforce checks the client's roles.
    Roles,
}

impl Authenticator {
    /// An authenticator for the callers of a configuration.
    #[must_use]
    pub fn new(callers: Arc<Callers>, shoppers: Arc<ShopperVerifier>, system_tokens: Arc<SystemTokens>) -> Self {
        Self { callers, shoppers, system_tokens }
    }

    /// Returns the caller that the gateway knew by this entry when it issued a token to it.
    pub(super) fn caller_by_entry(&self, entry: &CallerEntry) -> Option<&Arc<Caller>> {
        self.callers.by_entry(entry)
    }

    /// Establishes the sender of a request and notes it in the audit record.
    ///
    /// # Errors
    /// The errors of [`Authorization::parse`]; [`GatewayError::TokenMissing`] without a credential; the errors of the
    /// credential's verification.
    pub(super) async fn identify(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Identity, GatewayError> {
        let RoutedRequest { route, request, .. } = routed;
        let headers = &request.head.headers;
        if on_behalf_header::is_present(headers) {
            return Box::pin(self.identify_on_behalf(routed, audit)).await;
        }
        let Some(operation) = &route.operation else {
            return Ok(Identity::Shopper(Box::pin(self.shopper(routed)).await?));
        };
        let authorization = Authorization::parse(headers)?;
        let token = match &authorization {
            Authorization::Bearer(token) => Some(HashedToken::new(token.expose_secret())),
            Authorization::Basic(_) | Authorization::Nothing => None,
        };
        if let Some(token) = &token {
            let span = spans::verify("slas");
            let seen = span.in_scope(|| self.shoppers.cached(token, &route.organization))?;
            if let Some(verified) = seen {
                return Ok(Identity::Shopper(verified));
            }
        }
        let is_system = match &authorization {
            Authorization::Bearer(token) => jwt::has_system_token_algorithm(token.expose_secret()),
            Authorization::Basic(_) => operation.accepts_system(),
            // A client certificate on a system operation is an attempt to authenticate as a trusted system. The gateway
            // rejects an unknown certificate instead of trying shopper authentication.
            Authorization::Nothing => operation.accepts_system() && request.certificate.is_some(),
        };
        if is_system {
            let caller = Box::pin(self.identify_system(routed, operation, audit)).await?;
            return Ok(Identity::System(Box::new(caller)));
        }
        let token = token.ok_or_else(|| not_bearer(&authorization))?;
        Ok(Identity::Shopper(Box::pin(self.verify_shopper(&token, &route.organization)).await?))
    }

    async fn identify_system(
        &self,
        routed: RoutedRequest<'_>,
        operation: &Operation,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        let scopes = operation.system_scopes();
        let exchange = if operation.is_authorized_by_role() { Exchange::Roles } else { Exchange::Scopes(&scopes) };
        let caller = self.authenticate_caller(routed, exchange, audit).await;
        let is_configured = audit.actor.is_some() && caller.as_ref().err() != Some(&NOT_CONFIGURED);
        if operation.is_write() && is_configured {
            audit.event = Some(Event::SystemWrite);
        }
        caller
    }

    async fn identify_on_behalf(
        &self,
        routed: RoutedRequest<'_>,
        audit: &mut AuditRecord,
    ) -> Result<Identity, GatewayError> {
        audit.event = Some(Event::OnBehalf);
        let caller = self.caller(routed, &Scopes::default(), audit).await;
        let caller = caller.map_err(|error| match error {
            // Only a trusted system may name a shopper, whatever else is wrong with the request.
            GatewayError::TokenMissing | GatewayError::TokenKindWrong(_) => GatewayError::CallerNotAllowed,
            error => error,
        })?;
        if matches!(caller.proof, Proof::Basic(Err(ScopeRejected))) {
            // Account Manager rejected the tenant only: the client is of another organization.
            return Err(GatewayError::CallerNotAllowed);
        }
        let subject = OnBehalfHeader::read(&routed.request.head.headers);
        Ok(Identity::OnBehalf(Box::new(caller), Box::new(subject)))
    }

    /// Establishes the trusted system that sends a request. Client credentials are exchanged for a token with one of the
    /// `scopes`.
    ///
    /// # Errors
    /// [`GatewayError::CallerRejected`] if no caller of the configuration sent the request; [`GatewayError::TokenKindWrong`] for a
    /// shopper's token; [`GatewayError::TokenMissing`] without a credential; the errors of the credential's verification.
    pub(super) async fn caller(
        &self,
        routed: RoutedRequest<'_>,
        scopes: &Scopes,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        self.authenticate_caller(routed, Exchange::Scopes(scopes), audit).await
    }

    /// Verifies the shopper token of a request. The token may have expired: its session may have a newer one.
    ///
    /// # Errors
    /// [`GatewayError::TokenKindWrong`] for a system token; [`GatewayError::TokenMissing`] without a credential; the errors of the
    /// token's verification.
    pub(super) async fn shopper(&self, routed: RoutedRequest<'_>) -> Result<VerifiedToken, GatewayError> {
        let RoutedRequest { tenant, request, .. } = routed;
        let authorization = Authorization::parse(&request.head.headers)?;
        let Authorization::Bearer(token) = authorization else { return Err(not_bearer(&authorization)) };
        if jwt::has_system_token_algorithm(token.expose_secret()) {
            verify_system(tenant, token.expose_secret(), AuthorizationModel::Scopes).await?;
            return Err(GatewayError::TokenKindWrong(RequiredToken::Shopper));
        }
        self.verify_shopper(&HashedToken::new(token.expose_secret()), &tenant.settings.organization).await
    }

    async fn verify_shopper(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
    ) -> Result<VerifiedToken, GatewayError> {
        Ok(self.shoppers.verify(token, organization).instrument(spans::verify("slas")).await?)
    }

    /// Establishes the trusted system whose credential a request brings, and notes it in the audit record.
    async fn authenticate_caller(
        &self,
        routed: RoutedRequest<'_>,
        exchange: Exchange<'_>,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        let RoutedRequest { tenant, route, request, .. } = routed;
        match Authorization::parse(&request.head.headers)? {
            Authorization::Bearer(token) if jwt::has_system_token_algorithm(token.expose_secret()) => {
                let by_role = route.operation.as_ref().is_some_and(|operation| operation.is_authorized_by_role());
                let judged_by = if by_role { AuthorizationModel::Roles } else { AuthorizationModel::Scopes };
                let client = verify_system(tenant, token.expose_secret(), judged_by).await?;
                audit.actor = Some(client.client.to_string());
                let caller = self.callers.by_client(client.client.as_str()).ok_or(NOT_CONFIGURED)?;
                Ok(authenticated(caller, Proof::Bearer(client), audit))
            }
            Authorization::Bearer(token) => {
                self.verify_shopper(&HashedToken::new(token.expose_secret()), &route.organization).await?;
                Err(GatewayError::TokenKindWrong(RequiredToken::System))
            }
            Authorization::Basic(credentials) => self.verify_credentials(tenant, credentials, exchange, audit).await,
            Authorization::Nothing => {
                let certificate = request.certificate.ok_or(GatewayError::TokenMissing)?;
                audit.actor = Some(certificate.subject().to_owned()).filter(|subject| !subject.is_empty());
                let caller = self.callers.by_certificate(certificate).ok_or(NOT_CONFIGURED)?;
                Ok(authenticated(caller, Proof::Certificate, audit))
            }
        }
    }

    /// Verifies the Basic credentials of a trusted system at Account Manager, which never sees those of a client that is not configured.
    async fn verify_credentials(
        &self,
        tenant: &Tenant,
        presented: BasicCredentials,
        exchange: Exchange<'_>,
        audit: &mut AuditRecord,
    ) -> Result<AuthenticatedCaller, GatewayError> {
        let caller = self.callers.by_client(&presented.user);
        // A user name that is not a client id belongs to no caller.
        let client = presented.user.parse().or_else(|_| NO_CLIENT_ID.parse()).map_err(|_| NOT_CONFIGURED)?;
        let credentials = ClientCredentials { client, secret: presented.password };
        let Some(caller) = caller else {
            if tenant.account_manager.is_none() {
                return Err(NOT_CONFIGURED);
            }
            let scopes = match exchange {
                Exchange::Scopes(scopes) => scopes.clone(),
                Exchange::Roles => Scopes::default(),
            };
            let rejection =
                self.system_tokens.reject_unknown_client(&tenant.settings.tenant, &credentials, audit.address, &scopes);
            return Err(match rejection.await {
                SystemTokenFailure::CredentialsRejected => NOT_CONFIGURED,
                failure => failure.into(),
            });
        };
        let presenter = Presenter::Client(audit.address);
        audit.actor = Some(caller.settings.name.clone());
        let proof = match self.exchange(tenant, credentials, presenter, exchange).await {
            Ok(token) => Proof::Basic(Ok(token)),
            Err(SystemTokenFailure::ScopeRejected) => Proof::Basic(Err(ScopeRejected)),
            Err(failure) => return Err(failure.into()),
        };
        Ok(AuthenticatedCaller { caller: Arc::clone(caller), proof })
    }

    async fn exchange(
        &self,
        tenant: &Tenant,
        credentials: ClientCredentials,
        presenter: Presenter,
        exchange: Exchange<'_>,
    ) -> Result<RenewableToken, SystemTokenFailure> {
        let account_manager = tenant.account_manager.as_ref().ok_or(SystemTokenFailure::CredentialsRejected)?;
        let (of, tokens) = (&tenant.settings.tenant, &self.system_tokens);
        let (key, token) = match exchange {
            Exchange::Scopes(scopes) => {
                let token = tokens.token_with_any(account_manager, of, &credentials, presenter, scopes);
                token.instrument(spans::cache("system")).await?
            }
            Exchange::Roles => {
                let token = tokens.token_by_role(account_manager, of, &credentials, presenter);
                let (key, token) = token.instrument(spans::cache("system")).await;
                (key, token?)
            }
        };
        Ok(RenewableToken { credentials, key, token, is_gateways: false })
    }
}

/// Returns the trusted system whose identity is proven, and notes its name in the audit record.
fn authenticated(caller: &Arc<Caller>, proof: Proof, audit: &mut AuditRecord) -> AuthenticatedCaller {
    audit.actor = Some(caller.settings.name.clone());
    AuthenticatedCaller { caller: Arc::clone(caller), proof }
}

/// Returns the error for a credential that is not a bearer token.
fn not_bearer(authorization: &Authorization<'_>) -> GatewayError {
    match authorization {
        Authorization::Basic(_) => GatewayError::TokenInvalid("this operation takes no Basic credentials".into()),
        _ => GatewayError::TokenMissing,
    }
}

/// Verifies a token of Account Manager.
async fn verify_system(
    tenant: &Tenant,
    token: &str,
    judged_by: AuthorizationModel,
) -> Result<Arc<SystemClient>, GatewayError> {
    let Some(systems) = &tenant.systems else {
        return Err(GatewayError::TokenInvalid("this organization has no Account Manager configured".into()));
    };
    let token = HashedToken::new(token);
    let verified = systems.verify(&token, &tenant.settings.tenant, judged_by);
    Ok(verified.instrument(spans::verify("account_manager")).await?)
}
