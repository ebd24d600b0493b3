//! The verdict about a token: reasons for rejection and the status of its signature.
//!
//! Without a configuration, only the content is checked. With a configuration, the verifiers of `serve` check the token too, and
//! their result counts: each reason for which the gateway would reject the token is listed.

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::{
    super::error::{CommandError, start_runtime},
    content::{DecodedToken, escape_unprintable},
};
use crate::{
    app,
    config::Settings,
    gateway::{
        callers::{Caller, Callers},
        error::{GatewayError, RejectionReason},
        problem,
        tenant::Tenant,
    },
    jwks::KeyRing,
    jwt::{UnverifiedToken, expiry},
    observability::metrics::Metrics,
    time::unix_now,
    types::OrganizationId,
    verify::{
        HashedToken,
        shopper_token::{ShopperVerifier, check_claims},
        system_token::AuthorizationModel,
    },
};

/// Result of the signature check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureStatus {
    Verified,
    Invalid,
    /// The signature was not checked, with the reason.
    NotChecked(&'static str),
}

/// The verdict about a token.
pub(super) struct Verdict {
    pub(super) signature: SignatureStatus,
    /// Error codes and reasons for rejection.
    pub(super) rejections: Vec<(&'static str, String)>,
    /// The trusted system that the token belongs to, if it is configured.
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) organization: Option<OrganizationId>,
}

/// Checks the content of a token without a configuration.
pub(super) fn check_content(token: &str, decoded: &DecodedToken) -> Verdict {
    let mut rejections = Vec::new();
    let mut reject = |error: &GatewayError, why: String| rejections.push((problem::code(error), why));
    let mut signature = SignatureStatus::NotChecked("no -c FILE was given");
    let algorithm = if decoded.is_system { Algorithm::RS256 } else { Algorithm::ES256 };
    if let Err(malformed) = UnverifiedToken::parse(token, algorithm) {
        let expected = format!("{algorithm:?}");
        let why = match decoded.algorithm().filter(|named| *named != expected) {
            Some(named) => format!("the algorithm is {}; the issuer signs with {expected}", escape_unprintable(named)),
            None => malformed.to_string(),
        };
        reject(&GatewayError::TokenInvalid(String::new()), why);
        signature = SignatureStatus::Invalid;
    }
    if !decoded.is_system
        && let Err(error) = check_claims(&decoded.payload)
    {
        reject(&GatewayError::from(error), error.to_string());
    }
    let now = unix_now();
    match decoded.number("exp") {
        None => reject(&GatewayError::TokenInvalid(String::new()), "the token has no expiry (exp)".to_owned()),
        Some(end) if expiry::is_expired(end, now) => {
            let session = if decoded.is_system { "" } else { ", unless the gateway holds its session" };
            reject(&GatewayError::TokenExpired, format!("the token has expired{session}"));
        }
        Some(_) => {}
    }
    let begins = decoded.number("nbf").or(decoded.number("iat").filter(|_| !decoded.is_system));
    if begins.is_some_and(|from| expiry::is_not_yet_valid(from, now)) {
        reject(&GatewayError::TokenInvalid(String::new()), "the token is not valid yet".to_owned());
    }
    let organization = decoded.tenant().map(|tenant| OrganizationId::from_tenant(&tenant));
    Verdict { signature, rejections, caller: None, organization }
}

impl Verdict {
    /// Verifies the token as a gateway with these settings would: organization, caller and signature.
    pub(super) fn verify_with_config(
        &mut self,
        settings: &Settings,
        callers: &Callers,
        token: &str,
        decoded: &DecodedToken,
    ) -> Result<(), CommandError> {
        let runtime = start_runtime()?;
        let metrics = Arc::new(Metrics::new("", "").map_err(CommandError::from_display)?);
        let tenants = app::build_tenants(settings).map_err(CommandError::from_display)?;
        let own = tenants.iter().find(|(tenant, _)| decoded.is_for_tenant(&tenant.settings.tenant)).or_else(|| {
            // A token for roles names no tenant. Any organization with an Account Manager can verify it.
            let can_verify = |(tenant, _): &&(Tenant, _)| decoded.is_role_based() && tenant.systems.is_some();
            tenants.iter().find(can_verify)
        });
        self.organization = own.map(|(tenant, _)| tenant.settings.organization.clone());
        if own.is_none() {
            self.add_rejection(
                &GatewayError::TokenWrongOrganization,
                "the token belongs to no organization of this configuration",
            );
        } else if decoded.is_system {
            self.caller = callers.by_client(decoded.text("sub").unwrap_or_default()).cloned();
            if self.caller.is_none() {
                self.add_rejection(
                    &GatewayError::CallerRejected(RejectionReason::NotConfigured),
                    "the client is not in [[callers]]",
                );
            }
        }
        // A malformed token needs no keys.
        if self.signature == SignatureStatus::Invalid {
            return Ok(());
        }
        let Some((tenant, rings)) = own else {
            self.signature = SignatureStatus::NotChecked("the token belongs to no configured organization");
            return Ok(());
        };
        for ring in rings {
            runtime.spawn(Arc::clone(ring).run_refresher());
        }
        let verdict = runtime.block_on(verify(token, decoded, tenant, rings, metrics));
        self.signature = match &verdict {
            // The expiry is checked after the signature.
            Ok(()) | Err((GatewayError::TokenExpired, _)) => SignatureStatus::Verified,
            Err((GatewayError::KeysUnavailable, _)) => SignatureStatus::NotChecked("the issuer's keys are unavailable"),
            Err(_) => SignatureStatus::Invalid,
        };
        // The expiry is already in the list, from the content check.
        if let Err((error, why)) = verdict
            && error != GatewayError::TokenExpired
        {
            self.add_rejection(&error, why);
        }
        Ok(())
    }

    fn add_rejection(&mut self, error: &GatewayError, why: impl Into<String>) {
        let rejection = (problem::code(error), why.into());
        if !self.rejections.contains(&rejection) {
            self.rejections.push(rejection);
        }
    }
}

/// Verifies the token with the verifier that `serve` would use.
async fn verify(
    token: &str,
    decoded: &DecodedToken,
    tenant: &Tenant,
    rings: &[Arc<KeyRing>],
    metrics: Arc<Metrics>,
) -> Result<(), (GatewayError, String)> {
    if decoded.is_system {
        let Some(systems) = &tenant.systems else {
            let why = "this organization has no Account Manager configured".to_owned();
            return Err((GatewayError::TokenInvalid(String::new()), why));
        };
        let model = if decoded.is_role_based() { AuthorizationModel::Roles } else { AuthorizationModel::Scopes };
        let verdict = systems.verify(&HashedToken::new(token), &tenant.settings.tenant, model).await;
        return verdict.map(|_| ()).map_err(|error| (GatewayError::from(error), error.to_string()));
    }
    let organization = &tenant.settings.organization;
    // The first key ring is that of SLAS.
    let rings = rings.iter().take(1).map(|ring| (organization.clone(), Arc::clone(ring)));
    let verdict = ShopperVerifier::new(rings.collect(), metrics).verify(&HashedToken::new(token), organization).await;
    verdict.map(|_| ()).map_err(|error| (GatewayError::from(error), error.to_string()))
}
