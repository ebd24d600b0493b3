//! Whether a request may go upstream, and with what credential.
//!
//! Owns the order in which that is request: who it is, whether the operation is for such, whether site and scopes fit,
//! and what its session has to say. AuthenticatedCaller systems are a matter of their own: [`super::authn::callers`].

use std::sync::Arc;

use http::request::Parts;
use tracing::Instrument;

use super::{
    Gateway, Request, Route, Tenant,
    authn::{callers::Caller, on_behalf_header},
    authorization_header::Authorization,
    error::{GatewayError, RequiredToken},
    headers::UpstreamCredential,
    path::RequestPath,
    policy::{Operation, OperationKind, SecurityKind},
};
use crate::{
    config::UnknownOperations,
    jwt,
    observability::{
        audit::{AuditRecord, Event, Pseudonym},
        spans,
    },
    tokens::sessions::{SessionError, TokenChoice, TokenRecipient},
    types::{OrganizationId, Scopes, SiteId},
    verify::{HashedToken, shopper::Shopper, shopper_token::VerifiedToken},
};

impl Gateway {
    /// The credential under which a request may go upstream.
    pub(super) async fn authorize(
        &self,
        tenant: &Tenant,
        route: &Route,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Result<UpstreamCredential, GatewayError> {
        let head = request.head;
        if on_behalf_header::is_asked(&head.headers) {
            return Box::pin(self.authorize_on_behalf(tenant, route, request, audit)).await;
        }
        let Some(operation) = &route.operation else {
            if self.policy.unknown_operations == UnknownOperations::Deny {
                return Err(GatewayError::OperationUnknown);
            }
            let verified = Box::pin(self.shopper_of(route, head)).await?;
            check_site(&verified.shopper, route.site.as_ref())?;
            return self.credential_of(verified, audit).await;
        };
        let presented = Authorization::read(&head.headers)?;
        let token = match &presented {
            Authorization::Bearer(token) => Some(HashedToken::new(token.expose_secret())),
            Authorization::Basic(_) | Authorization::Nothing => None,
        };
        let seen = token.as_ref().map(|token| self.seen_before(token, route)).transpose()?.flatten();
        let verified = match seen {
            Some(verified) => verified,
            None => {
                let is_system = match &presented {
                    Authorization::Bearer(token) => jwt::claims_to_be_of_account_manager(token.expose_secret()),
                    Authorization::Basic(_) => operation.accepts_system(),
                    // Who shows a certificate to a system operation asks as a trusted system, whether it is one or not.
                    Authorization::Nothing => operation.accepts_system() && request.certificate.is_some(),
                };
                if is_system {
                    let scopes = operation.system_scopes();
                    let trusted = Box::pin(self.trusted(tenant, route, request, &scopes, audit)).await?;
                    if operation.is_write() {
                        audit.event = Some(Event::SystemWrite);
                        audit.shopper = self.shopper_in_path(route, head);
                    }
                    return Box::pin(self.authorize_system(tenant, trusted, route, operation)).await;
                }
                let token = token.ok_or_else(|| no_bearer(&presented))?;
                Box::pin(self.verify_shopper(&token, &route.organization)).await?
            }
        };
        authorize_shopper(&verified.shopper, operation, route.site.as_ref())?;
        self.credential_of(verified, audit).await
    }

    /// The shopper whom the path of a trusted system's request names.
    fn shopper_in_path(&self, route: &Route, head: &Parts) -> Option<Pseudonym> {
        let path = RequestPath::parse(head.uri.path()).ok()?;
        let found = self.operations.find(&head.method, &path).ok()?;
        let shopper = ["customerId", "customerNo"].into_iter().find_map(|name| found.parameter(name))?;
        Some(self.audit.pseudonym(route.organization.as_str(), shopper))
    }

    /// The shopper of the request's own token, which may have ended.
    pub(super) async fn shopper_of(&self, route: &Route, head: &Parts) -> Result<VerifiedToken, GatewayError> {
        let presented = Authorization::read(&head.headers)?;
        let Authorization::Bearer(token) = presented else { return Err(no_bearer(&presented)) };
        if jwt::claims_to_be_of_account_manager(token.expose_secret())
            && let Some(tenant) = self.tenants.get(&route.organization)
        {
            self.system_client(tenant, token.expose_secret()).await?;
            return Err(GatewayError::TokenKindWrong(RequiredToken::Shopper));
        }
        self.verify_shopper(&HashedToken::new(token.expose_secret()), &route.organization).await
    }

    /// The shopper of a token that has been verified before: what most requests have, told without reading it.
    fn seen_before(&self, token: &HashedToken<'_>, route: &Route) -> Result<Option<VerifiedToken>, GatewayError> {
        let span = spans::verify("slas");
        let seen = span.in_scope(|| self.shoppers.seen_before(token, &route.organization));
        seen.map_err(GatewayError::of_shopper_token)
    }

    pub(super) async fn verify_shopper(
        &self,
        token: &HashedToken<'_>,
        organization: &OrganizationId,
    ) -> Result<VerifiedToken, GatewayError> {
        let verified = self.shoppers.verify(token, organization).instrument(spans::verify("slas")).await;
        verified.map_err(GatewayError::of_shopper_token)
    }

    /// The token that goes upstream for a shopper who may: the one received, or its session's newest. Whoever acts for the
    /// shopper is noted.
    async fn credential_of(
        &self,
        verified: VerifiedToken,
        audit: &mut AuditRecord,
    ) -> Result<UpstreamCredential, GatewayError> {
        let shopper = &verified.shopper;
        if shopper.marks.taob {
            audit.event = Some(Event::Agent);
            audit.actor = Some(shopper.agent.as_deref().unwrap_or("agent").to_owned());
            audit.shopper = self.pseudonym_of(shopper);
        }
        if shopper.marks.tsob && !Box::pin(self.may_be_renewed(&verified, audit)).await? {
            let living = self.sessions.check_active(&verified).instrument(spans::cache("session")).await;
            return living
                .map(|()| UpstreamCredential::of_shopper(verified.shopper))
                .map_err(|error| refusal_of_session(&error));
        }
        match self.sessions.resolve(&verified).instrument(spans::cache("session")).await {
            Ok(TokenChoice::AsPresented) => Ok(UpstreamCredential::of_shopper(verified.shopper)),
            Ok(TokenChoice::Refreshed(token)) => Ok(UpstreamCredential::of_session(verified.shopper, token)),
            Err(error) => Err(refusal_of_session(&error)),
        }
    }
}

impl Gateway {
    /// Whether the gateway renews a token on behalf of a shopper. It renews what it gave to a trusted system, which must
    /// still be there and may log shoppers in, and for which it counts as a request; and what a client got from SLAS
    /// through it. Whoever shows the token is noted as the one who acts.
    ///
    /// # Errors
    /// [`GatewayError::TokenInvalid`] if the caller is not there any more or may not log in shoppers,
    /// [`GatewayError::CallerRateLimited`].
    pub(super) async fn may_be_renewed(
        &self,
        token: &VerifiedToken,
        audit: &mut AuditRecord,
    ) -> Result<bool, GatewayError> {
        let shopper = &token.shopper;
        audit.event = Some(Event::OnBehalf);
        audit.actor = Some(shopper.client.to_string());
        audit.shopper = self.pseudonym_of(shopper);
        let holder = self.sessions.recipient(token).instrument(spans::cache("session")).await;
        let (entry, site) = match holder.map_err(|error| refusal_of_session(&error))? {
            TokenRecipient::TrustedSystem(entry, site) => (entry, site),
            TokenRecipient::Client => return Ok(true),
            TokenRecipient::Unknown => return Ok(false),
        };
        audit.actor = Some(entry.name.clone());
        let mut logins =
            self.operations.iter().filter(|operation| operation.kind == OperationKind::DeprecatedTrustedSystemLogin);
        let may = |caller: &&Arc<Caller>| {
            logins.any(|operation| caller.may_on_behalf(operation, &shopper.organization, &site))
        };
        let caller = self.callers.by_entry(&entry).filter(may);
        let caller = caller.ok_or_else(|| {
            GatewayError::TokenInvalid(
                "the trusted system that it was given to may not act for shoppers any more".into(),
            )
        })?;
        self.bounds.caller(caller)?;
        Ok(true)
    }

    fn pseudonym_of(&self, shopper: &Shopper) -> Option<Pseudonym> {
        let customer = shopper.customer.as_ref();
        customer.map(|customer| self.audit.pseudonym(shopper.organization.as_str(), customer.as_str()))
    }
}

/// Why what is presented is no shopper's, if it is no bearer token.
fn no_bearer(presented: &Authorization<'_>) -> GatewayError {
    match presented {
        Authorization::Basic(_) => GatewayError::TokenInvalid("this operation takes no Basic credentials".into()),
        _ => GatewayError::TokenMissing,
    }
}

/// Whether a shopper's verified token is enough for an operation.
pub(super) fn authorize_shopper(
    shopper: &Shopper,
    operation: &Operation,
    site: Option<&SiteId>,
) -> Result<(), GatewayError> {
    let fitting = || operation.for_shopper(shopper.marks);
    if fitting().next().is_none() {
        return Err(GatewayError::TokenKindWrong(needed_by(operation)));
    }
    check_site(shopper, site)?;
    if fitting().any(|security| security.is_met_by(&shopper.scopes)) {
        return Ok(());
    }
    let wanted: Scopes = fitting().flat_map(|security| security.scopes.iter().cloned()).collect();
    Err(GatewayError::ScopeMissing(wanted))
}

pub(super) fn check_site(shopper: &Shopper, site: Option<&SiteId>) -> Result<(), GatewayError> {
    match (&shopper.site, site) {
        (Some(own), Some(request)) if own != request => Err(GatewayError::TokenWrongSite),
        _ => Ok(()),
    }
}

/// The kind of token that an operation needs, for the words of the refusal.
pub(super) fn needed_by(operation: &Operation) -> RequiredToken {
    match operation.security.first().map(|security| security.kind) {
        Some(SecurityKind::ShopperTsob) => RequiredToken::OnBehalf,
        Some(SecurityKind::ShopperTaob) => RequiredToken::AgentOnBehalf,
        Some(SecurityKind::System | SecurityKind::SystemByRole) => RequiredToken::System,
        Some(SecurityKind::Shopper) | None => RequiredToken::Shopper,
    }
}

pub(super) fn refusal_of_session(error: &SessionError) -> GatewayError {
    match error {
        SessionError::Expired | SessionError::RefreshRejected(_) => GatewayError::TokenExpired,
        SessionError::LoggedOut => GatewayError::TokenInvalid("its session was logged out".into()),
        SessionError::Slas(error) => GatewayError::of_slas(error),
        SessionError::Store(_) => GatewayError::StoreUnavailable,
    }
}
