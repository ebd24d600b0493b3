//! Paths of SLAS itself: what is added to a request for SLAS, and what is kept from its answer.
//!
//! Owns what counts as such a path and in which order its rules apply. The operations that are let
//! through are those of the policy table; everything else below SLAS's base is refused, whatever the
//! policy says of unknown operations: a deny-list here has been the hole in more than one proxy.

mod client_auth;
mod on_behalf_hints;
mod response;
mod token_endpoint;

use http::{Method, request::Parts};

use self::token_endpoint::Login;
pub use self::{
    client_auth::{what_is_added, whose_is_added},
    response::{AnswerEdits, answer_edits},
};
use super::{
    Decision, Forward, Gateway, Logout, Request, Route, Tenant, Whose,
    authn::{self, on_behalf_header::is_asked as asks_on_behalf},
    authorization_header::Authorization,
    error::GatewayError,
    form, limits,
    path::RequestPath,
    policy::{Operation, OperationKind},
    problem::LocalResponse,
};

use crate::{config, observability::audit::AuditRecord};

/// Largest form that is held to be read, bytes: as much as the HTTP library can send on afterwards.
pub const MAX_FORM_BYTES: usize = 64 * 1024;

/// Whether a path lies below `/shopper/auth/`, in any case of its letters, where only listed operations
/// are let through.
#[must_use]
pub fn is_slas_path(path: &RequestPath<'_>) -> bool {
    let mut segments = path.segments().iter().map(|segment| segment.decoded());
    let mut next_is = |name: &str| segments.next().is_some_and(|segment| segment.eq_ignore_ascii_case(name));
    next_is("shopper") && next_is("auth")
}

/// Whether an operation was found where only SLAS's may be served: below SLAS's base, or below a storefront's prefix. A
/// merchant's route with parameters must not open what the table of SLAS's operations leaves out.
#[must_use]
pub(super) fn is_out_of_place(kind: OperationKind, path: &RequestPath<'_>, is_below_prefix: bool) -> bool {
    kind != OperationKind::Slas && (is_below_prefix || is_slas_path(path))
}

impl Gateway {
    /// Whether a request's body must be read before it can be decided about: the form that names the
    /// client whose credential may be missing, or the shopper for whom a one-time code is tried or sent.
    #[must_use]
    pub fn holds_form(&self, route: &Route, head: &Parts) -> bool {
        let Some((operation, tenant)) = route.operation.as_ref().zip(self.tenants.get(&route.organization)) else {
            return false;
        };
        let is_wanted = || {
            is_slas_own(operation)
                && head.method == Method::POST
                && form::is_form(&head.headers)
                && (response::gives_tokens(operation)
                    || is_revocation(&tenant.settings, operation)
                    || client_auth::wants_form(&tenant.settings, route, operation, head))
        };
        operation.kind == OperationKind::Slas && (limits::is_read_in_body(route, &head.method) || is_wanted())
    }

    /// What is done with a request for SLAS that brings its own proof, or lacks the one that the gateway adds.
    pub(super) async fn decide_slas(
        &self,
        tenant: &Tenant,
        route: &Route,
        operation: &Operation,
        request: &Request<'_>,
        audit: &mut AuditRecord,
    ) -> Decision {
        let Request { head, body, correlation_id, .. } = request;
        // They act for the client and the shopper that the request itself proves, in report mode too.
        if asks_on_behalf(&head.headers) {
            let refusal = GatewayError::CallerNotAllowed;
            authn::refused(&refusal, audit);
            return Decision::Answer(LocalResponse::refusal(&refusal));
        }
        if needs_credential(operation) && matches!(Authorization::read(&head.headers), Ok(Authorization::Nothing)) {
            // In report mode too: SLAS would refuse it, and a stranger would have used up one of the tenant's calls.
            return Decision::Answer(LocalResponse::refusal(&GatewayError::TokenMissing));
        }
        if (response::gives_tokens(operation) || is_revocation(&tenant.settings, operation))
            && request.body_follows
            && head.method == Method::POST
        {
            // SLAS might read it as a form, and the gateway would not see whose session it is.
            let problem = "The body must be a form: Content-Type: application/x-www-form-urlencoded, in UTF-8.";
            return Decision::Answer(LocalResponse::refusal(&GatewayError::RequestInvalid(problem.into())));
        }
        let login_of = client_auth::login(&tenant.settings, operation, head, body.as_ref());
        let login_of = login_of.map(|login| AuditRecord { address: audit.address, ..login });
        let credential = match client_auth::credential(&tenant.settings, route, operation, head, body.as_ref()) {
            Ok(credential) => credential,
            // Only what has two readings is refused here, which report mode does as well.
            Err(refusal) => return Decision::Answer(LocalResponse::refusal(&refusal)),
        };
        let mut admission = match self.bounds.admit(tenant, route, request, &credential).await {
            Ok(admission) => admission,
            Err(refusal) => return Decision::Answer(LocalResponse::refusal(&refusal)),
        };
        let is_form = form::is_form(&head.headers);
        let is_followed = match body.as_ref().filter(|_| is_form) {
            Some(_) if token_endpoint::is_registered(&tenant.settings, operation) => true,
            Some(form) if response::gives_tokens(operation) => self.must_record_epoch(operation, form),
            _ => false,
        };
        if let Some(form) = body.clone().filter(|_| is_followed) {
            let login = Login { tenant, operation, head, form, credential, correlation_id };
            let reply = self.registered_login(&login).await;
            *audit = login_of.unwrap_or_default();
            if let Ok(reply) = &reply {
                admission.end(route, Some(reply.status));
            }
            return Decision::Answer(reply.unwrap_or_else(|refusal| LocalResponse::refusal(&refusal)));
        }
        let logout = match body.as_ref().filter(|_| is_revocation(&tenant.settings, operation)) {
            Some(form) => self.revoked_session(route, head, form).await.map(|handed| handed.map(Logout::of_session)),
            None => self.logout_at_slas(tenant, route, head).await,
        };
        let logout = match logout {
            Ok(logout) => logout,
            Err(refusal) => return Decision::Answer(LocalResponse::refusal(&refusal)),
        };
        Decision::Forward(Forward { credential, reported: None, logout, login: login_of.map(Box::new), admission })
    }

    /// The logout that a request is, with the refresh token that is valid now.
    async fn logout_at_slas(
        &self,
        tenant: &Tenant,
        route: &Route,
        head: &Parts,
    ) -> Result<Option<Logout>, GatewayError> {
        let mut logout = self.logout_of(route, head).await;
        if let Some(Logout { whose: Whose::Token(token), target, .. }) =
            logout.as_mut().filter(|_| tenant.settings.register_sessions)
        {
            *target = self.logout_target(route, head, token).await?;
        }
        Ok(logout)
    }
}

/// Whether an operation revokes a refresh token of which the gateway may have the session.
fn is_revocation(tenant: &config::Tenant, operation: &Operation) -> bool {
    tenant.register_sessions && operation.id == "revokeToken" && is_slas_own(operation)
}

/// Whether an operation is SLAS's and asks for no token that the gateway verifies.
#[must_use]
pub(super) fn is_slas_own(operation: &Operation) -> bool {
    operation.kind == OperationKind::Slas && operation.security.is_empty()
}

/// Whether an operation of SLAS takes nothing without `Authorization`, by its published description: `userinfo` and
/// `logout` a shopper's token, `introspect` and `revoke` a client's Basic credentials.
fn needs_credential(operation: &Operation) -> bool {
    is_slas_own(operation)
        && matches!(operation.id.as_str(), "getUserInfo" | "logoutCustomer" | "introspectToken" | "revokeToken")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_slas_base_only_slas_is_served() {
        let out_of_place = |kind, path, prefixed| is_out_of_place(kind, &RequestPath::parse(path).unwrap(), prefixed);
        let unlisted = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/unlisted";
        for path in [unlisted, "/Shopper/AUTH/v1", "/shopper/auth"] {
            assert!(out_of_place(OperationKind::Merchant, path, false), "{path}");
            assert!(!out_of_place(OperationKind::Slas, path, false), "{path}");
        }
        assert!(!out_of_place(OperationKind::Merchant, "/custom/loyalty/v1", false));
        assert!(out_of_place(OperationKind::Merchant, "/custom/loyalty/v1", true));
    }

    #[test]
    fn only_slas_is_slas() {
        let is = |path| is_slas_path(&RequestPath::parse(path).unwrap());
        assert!(is("/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/anything"));
        assert!(is("/shopper/auth"));
        assert!(is("/Shopper/AUTH/v1"));
        assert!(!is("/shopper/auth-admin/v1/tenants/zzrf_001"));
        assert!(!is("/customer/shopper/auth"));
    }
}
