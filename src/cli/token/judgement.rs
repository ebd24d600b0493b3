//! The judgement over a token: what speaks against it, and what its signature is worth.
//!
//! Without a configuration it is made of the claims alone. With one the verifiers that `serve` uses are asked too, and where
//! they differ from the claims, theirs counts: whatever the gateway would refuse speaks against the token.

use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::{
    super::failure::Failure,
    claimed::{Claimed, printable},
};
use crate::{
    app,
    config::Settings,
    gateway::{
        Tenant,
        authn::callers::{Caller, Callers},
        error::{GatewayError, RejectionReason},
        problem,
    },
    jwks::KeyRing,
    jwt::Unverified,
    observability::metrics::Metrics,
    time::unix_now,
    types::OrganizationId,
    verify::{
        shopper_token::{HashedToken, LEEWAY_SECONDS, ShopperVerifier, check_claims},
        system_token::JudgedBy,
    },
};

/// Whether the signature was checked, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Verified,
    Wrong,
    /// Why it was not.
    Unchecked(&'static str),
}

/// What is to be said of a token.
pub(super) struct Judgement {
    pub(super) signature: Signature,
    /// Codes of refusals, and why.
    pub(super) against: Vec<(&'static str, String)>,
    /// The trusted system that it is of, if one is configured.
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) organization: Option<OrganizationId>,
}

/// What the claims alone tell.
pub(super) fn by_claims(token: &str, claimed: &Claimed) -> Judgement {
    let mut against = Vec::new();
    let mut refuse = |refusal: &GatewayError, why: String| against.push((problem::code(refusal), why));
    let mut signature = Signature::Unchecked("no -c FILE was given");
    let algorithm = if claimed.is_system { Algorithm::RS256 } else { Algorithm::ES256 };
    if let Err(malformed) = Unverified::read(token, algorithm) {
        let expected = format!("{algorithm:?}");
        let why = match claimed.algorithm().filter(|named| *named != expected) {
            Some(named) => format!("its algorithm is {}; its issuer signs with {expected}", printable(named)),
            None => malformed.to_string(),
        };
        refuse(&GatewayError::TokenInvalid(String::new()), why);
        signature = Signature::Wrong;
    }
    if !claimed.is_system
        && let Err(error) = check_claims(&claimed.payload)
    {
        refuse(&GatewayError::of_shopper_token(error), error.to_string());
    }
    let now = unix_now();
    match claimed.number("exp") {
        None => refuse(&GatewayError::TokenInvalid(String::new()), "it does not say when it ends (exp)".to_owned()),
        Some(end) if now >= end.saturating_add(LEEWAY_SECONDS) => {
            let session = if claimed.is_system { "" } else { ", unless the gateway holds its session" };
            refuse(&GatewayError::TokenExpired, format!("it has ended{session}"));
        }
        Some(_) => {}
    }
    let begins = claimed.number("nbf").or(claimed.number("iat").filter(|_| !claimed.is_system));
    if begins.is_some_and(|from| from > now + LEEWAY_SECONDS) {
        refuse(&GatewayError::TokenInvalid(String::new()), "it is not valid yet".to_owned());
    }
    let organization = claimed.tenant().map(|tenant| OrganizationId::of(&tenant));
    Judgement { signature, against, caller: None, organization }
}

impl Judgement {
    /// Adds what the configured gateway says: whose it is, and whether its issuer signed it.
    pub(super) fn ask_gateway(
        &mut self,
        settings: &Settings,
        callers: &Callers,
        token: &str,
        claimed: &Claimed,
    ) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::Other(format!("the runtime cannot start: {error}")))?;
        let metrics = Arc::new(Metrics::new("", "").map_err(Failure::of)?);
        let tenants = app::build_tenants(settings).map_err(Failure::of)?;
        let own = tenants.iter().find(|(tenant, _)| claimed.names(&tenant.settings.tenant)).or_else(|| {
            // It is of all that its client has a role in: any one of them can verify it.
            let can_verify = |(tenant, _): &&(Tenant, _)| claimed.is_for_roles() && tenant.systems.is_some();
            tenants.iter().find(can_verify)
        });
        self.organization = own.map(|(tenant, _)| tenant.settings.organization.clone());
        if own.is_none() {
            self.refuse(
                &GatewayError::TokenWrongOrganization,
                "it is of none of the organizations of this configuration",
            );
        } else if claimed.is_system {
            self.caller = callers.by_client(claimed.text("sub").unwrap_or_default()).cloned();
            if self.caller.is_none() {
                self.refuse(
                    &GatewayError::CallerRejected(RejectionReason::NotConfigured),
                    "its client is none of [[callers]]",
                );
            }
        }
        // What has not the form of a token is not worth its issuer's keys.
        if self.signature == Signature::Wrong {
            return Ok(());
        }
        let Some((tenant, rings)) = own else {
            self.signature = Signature::Unchecked("it is of no configured organization");
            return Ok(());
        };
        for ring in rings {
            runtime.spawn(Arc::clone(ring).keep_fresh());
        }
        let verdict = runtime.block_on(verify(token, claimed, tenant, rings, metrics));
        self.signature = match &verdict {
            // Its time is checked after its signature.
            Ok(()) | Err((GatewayError::TokenExpired, _)) => Signature::Verified,
            Err((GatewayError::KeysUnavailable, _)) => {
                Signature::Unchecked("the issuer's keys cannot be had at the moment")
            }
            Err(_) => Signature::Wrong,
        };
        // That it has ended was seen by its claims.
        if let Err((refusal, why)) = verdict
            && refusal != GatewayError::TokenExpired
        {
            self.refuse(&refusal, why);
        }
        Ok(())
    }

    fn refuse(&mut self, refusal: &GatewayError, why: impl Into<String>) {
        let finding = (problem::code(refusal), why.into());
        if !self.against.contains(&finding) {
            self.against.push(finding);
        }
    }
}

/// What the verifier says that `serve` would ask, in its words.
async fn verify(
    token: &str,
    claimed: &Claimed,
    tenant: &Tenant,
    rings: &[Arc<KeyRing>],
    metrics: Arc<Metrics>,
) -> Result<(), (GatewayError, String)> {
    if claimed.is_system {
        let Some(systems) = &tenant.systems else {
            let why = "this organization has no Account Manager configured".to_owned();
            return Err((GatewayError::TokenInvalid(String::new()), why));
        };
        let judged_by = if claimed.is_for_roles() { JudgedBy::Roles } else { JudgedBy::Scopes };
        let verdict = systems.verify(token, &tenant.settings.tenant, judged_by).await;
        return verdict.map(|_| ()).map_err(|error| (GatewayError::of_system_verdict(error), error.to_string()));
    }
    let organization = &tenant.settings.organization;
    // That of SLAS is the first.
    let rings = rings.iter().take(1).map(|ring| (organization.clone(), Arc::clone(ring)));
    let verdict = ShopperVerifier::new(rings.collect(), metrics).verify(&HashedToken::of(token), organization).await;
    verdict.map(|_| ()).map_err(|error| (GatewayError::of_shopper_token(error), error.to_string()))
}
