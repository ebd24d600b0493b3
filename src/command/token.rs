//! `token inspect`: what a token says, what it may, and why it would be refused.
//!
//! Owns the judgement in words. With a configuration it is the gateway's own, made by the verifiers that `serve` uses; without
//! one, it is only as far as the claims go, and says so. Prints claims, never the token or its signature.

mod claimed;

use std::{
    fmt::Write as _,
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use jsonwebtoken::Algorithm;

use self::claimed::{Claimed, printable};
use super::{
    Failure, load,
    terminal::{BAD, DOUBT, GOOD, HEADING, Terminal, styled},
};
use crate::{
    app,
    clock::unix_now,
    gate::{
        caller::{Caller, Callers},
        operations::{Operation, Operations, SecurityKind},
        refusal::Refusal,
        reply,
    },
    jwt::{self, Unverified},
    keys::KeyRing,
    metrics::Metrics,
    names::{OrganizationId, TENANT_SCOPE, TenantId},
    settings::Settings,
    shopper::verify::{HashedToken, LEEWAY_SECONDS, ShopperVerifier, TokenError, check_claims},
    system::SystemTokenError,
};

/// More than any token has; the rest of the input is left where it is.
const MOST_READ: u64 = 64 * 1024;

/// Whether the signature was checked, and what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Signature {
    Verified,
    Wrong,
    /// Why it was not.
    Unchecked(&'static str),
}

/// What is to be said of a token.
struct Judgement {
    signature: Signature,
    /// Codes of refusals, and why.
    against: Vec<(&'static str, String)>,
    /// The trusted system that it is of, if one is configured.
    caller: Option<Arc<Caller>>,
    organization: Option<OrganizationId>,
}

pub(super) fn inspect(config: Option<&Path>, terminal: &Terminal) -> Result<(), Failure> {
    let text = read()?;
    let token = text.trim();
    let token = token.strip_prefix("Bearer ").unwrap_or(token).trim();
    let claimed = Claimed::read(token).map_err(|problem| Failure::Other(format!("token_invalid: {problem}")))?;
    let (operations, judgement) = match config {
        Some(path) => {
            let settings = load(path)?.settings;
            let (operations, callers) = app::policy(&settings).map_err(Failure::of)?;
            let mut judgement = by_claims(token, &claimed);
            ask_issuer(&settings, &callers, token, &claimed, &mut judgement)?;
            (operations, judgement)
        }
        None => (Operations::published().map_err(Failure::of)?, by_claims(token, &claimed)),
    };
    terminal.print(&claimed.describe(unix_now()))?;
    terminal.print(&describe(&operations, &claimed, &judgement)?)?;
    if judgement.against.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

fn read() -> Result<String, Failure> {
    let mut text = String::new();
    let read = io::stdin().take(MOST_READ).read_to_string(&mut text);
    read.map_err(|_| Failure::Other("standard input is not text in UTF-8".to_owned()))?;
    if text.trim().is_empty() {
        return Err(Failure::Other(
            "standard input has no token; pipe one in: printenv TOKEN | shopper-gateway token inspect".to_owned(),
        ));
    }
    Ok(text)
}

/// What the claims alone tell.
fn by_claims(token: &str, claimed: &Claimed) -> Judgement {
    let mut against = Vec::new();
    let mut refuse = |refusal: &Refusal, why: String| against.push((reply::code(refusal), why));
    let algorithm = if claimed.is_system { Algorithm::RS256 } else { Algorithm::ES256 };
    let form = Unverified::read(token, algorithm).map(|_| ());
    if let Err(malformed) = form {
        refuse(&Refusal::TokenInvalid(String::new()), malformed.to_string());
    }
    if !claimed.is_system
        && let Err(error) = check_claims(&claimed.payload)
    {
        refuse(&Refusal::of_shopper_token(error), error.to_string());
    }
    let now = unix_now();
    match claimed.number("exp") {
        None => refuse(&Refusal::TokenInvalid(String::new()), "it does not say when it ends (exp)".to_owned()),
        Some(end) if now >= end.saturating_add(LEEWAY_SECONDS) => {
            let session = if claimed.is_system { "" } else { ", unless the gateway holds its session" };
            refuse(&Refusal::TokenExpired, format!("it has ended{session}"));
        }
        Some(_) => {}
    }
    let begins = claimed.number("nbf").or(claimed.number("iat").filter(|_| !claimed.is_system));
    if begins.is_some_and(|from| from > now + LEEWAY_SECONDS) {
        refuse(&Refusal::TokenInvalid(String::new()), "it is not valid yet".to_owned());
    }
    let organization = claimed.tenant().map(|tenant| OrganizationId::of(&tenant));
    Judgement { signature: Signature::Unchecked("no -c FILE was given"), against, caller: None, organization }
}

/// Adds what the configured gateway says: whose it is, and whether its issuer signed it.
fn ask_issuer(
    settings: &Settings,
    callers: &Callers,
    token: &str,
    claimed: &Claimed,
    judgement: &mut Judgement,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Other(format!("the runtime cannot start: {error}")))?;
    let metrics = Arc::new(Metrics::new("", "").map_err(Failure::of)?);
    let tenants = app::services(settings).map_err(Failure::of)?;
    let named: Vec<_> = tenants.iter().filter(|(tenant, _)| claimed.names(&tenant.settings.tenant)).collect();
    let Some((tenant, rings)) = named.first() else {
        judgement.signature = Signature::Unchecked("it is of no configured organization");
        let code = reply::code(&Refusal::TokenWrongOrganization);
        judgement.against.push((code, "it is of none of the organizations of this configuration".to_owned()));
        return Ok(());
    };
    judgement.organization = Some(tenant.settings.organization.clone());
    for ring in rings {
        runtime.spawn(Arc::clone(ring).keep_fresh());
    }
    let refusal = if claimed.is_system {
        judgement.caller = callers.by_client(claimed.text("sub").unwrap_or_default()).cloned();
        if judgement.caller.is_none() {
            let why = "its client is none of [[callers]]".to_owned();
            judgement.against.push((reply::code(&Refusal::CallerUnknown), why));
        }
        let Some(systems) = &tenant.systems else {
            judgement.signature = Signature::Unchecked("the organization has no Account Manager configured");
            return Ok(());
        };
        let verdict = runtime.block_on(systems.verify(token, &tenant.settings.tenant));
        match verdict {
            Ok(_) => None,
            Err(SystemTokenError::KeysUnavailable) => Some(None),
            Err(error) => Some(Some((Refusal::of_system_verdict(error), error.to_string()))),
        }
    } else {
        let verdict = runtime.block_on(verify_shopper(token, &tenant.settings.organization, rings, &metrics));
        match verdict {
            Ok(()) => None,
            Err(TokenError::KeysUnavailable) => Some(None),
            Err(error) => Some(Some((Refusal::of_shopper_token(error), error.to_string()))),
        }
    };
    judgement.signature = match refusal {
        None => Signature::Verified,
        Some(None) => Signature::Unchecked("the issuer's keys cannot be had at the moment"),
        // Its time is checked after its signature.
        Some(Some((Refusal::TokenExpired, _))) => Signature::Verified,
        Some(Some((refusal, why))) => {
            let finding = (reply::code(&refusal), why);
            if !judgement.against.contains(&finding) {
                judgement.against.push(finding);
            }
            Signature::Wrong
        }
    };
    Ok(())
}

async fn verify_shopper(
    token: &str,
    organization: &OrganizationId,
    rings: &[Arc<KeyRing>],
    metrics: &Arc<Metrics>,
) -> Result<(), TokenError> {
    // That of SLAS is the first.
    let rings = rings.iter().take(1).map(|ring| (organization.clone(), Arc::clone(ring)));
    let verifier = ShopperVerifier::new(rings.collect(), Arc::clone(metrics));
    verifier.verify(&HashedToken::of(token), organization).await.map(|_| ())
}

fn describe(operations: &Operations, claimed: &Claimed, judgement: &Judgement) -> Result<String, Failure> {
    let mut text = String::new();
    let signature = match judgement.signature {
        Signature::Verified => styled(GOOD, "verified with a key of its issuer"),
        Signature::Wrong => styled(BAD, "not accepted"),
        Signature::Unchecked(why) => format!("{}: {why}", styled(DOUBT, "not checked")),
    };
    let mut line = |line: String| writeln!(text, "{line}").map_err(Failure::of);
    line(format!("{}  {signature}", styled(HEADING, "Signature")))?;
    if let Some(caller) = &judgement.caller {
        line(format!("{}  {}", styled(HEADING, "Caller   "), printable(&caller.settings.name)))?;
    }
    let mut allowed: Vec<_> = operations.iter().filter(|operation| may_call(operation, claimed, judgement)).collect();
    allowed.sort_by(|one, other| (&one.api, &one.id).cmp(&(&other.api, &other.id)));
    let heading = format!("It may call {} of {} operations", allowed.len(), operations.iter().len());
    line(format!("\n{}", styled(HEADING, heading)))?;
    for of_one in allowed.chunk_by(|one, other| one.api == other.api) {
        let mut ids: Vec<_> = of_one.iter().map(|operation| operation.id.as_str()).collect();
        ids.dedup();
        line(format!("  {}: {}", of_one.first().map_or("", |operation| &operation.api), ids.join(" ")))?;
    }
    line(String::new())?;
    match (judgement.against.as_slice(), judgement.signature) {
        ([], Signature::Verified) => line(styled(GOOD, "Nothing speaks against it."))?,
        ([], _) => line(format!("{}, but its signature is not checked.", styled(DOUBT, "Nothing speaks against it")))?,
        (against, _) => {
            for (code, why) in against {
                line(format!("{} {code}: {why}", styled(BAD, "It would be refused:")))?;
            }
        }
    }
    Ok(text)
}

/// Whether the policy lets this token through for an operation, as far as kind, mark, scope and caller go.
fn may_call(operation: &Operation, claimed: &Claimed, judgement: &Judgement) -> bool {
    if !claimed.is_system {
        return operation.for_shopper(claimed.marks).any(|security| security.is_met_by(&claimed.scopes));
    }
    let mut of_systems = operation.security.iter().filter(|security| security.kind == SecurityKind::System);
    let is_callers = match (&judgement.caller, &judgement.organization) {
        (Some(caller), Some(organization)) => caller.may_system(operation, organization, None),
        _ => true,
    };
    is_callers && of_systems.any(|security| security.is_met_by(&claimed.scopes))
}

impl Claimed {
    /// The tenant that it is of: a shopper token names one, a system token perhaps several.
    fn tenant(&self) -> Option<TenantId> {
        if self.is_system {
            return self.scopes.iter().find_map(|scope| scope.as_str().strip_prefix(TENANT_SCOPE)?.parse().ok());
        }
        let issuer = self.text("iss")?;
        issuer.strip_prefix("slas/")?.split_once('/')?.1.parse().ok()
    }

    fn names(&self, tenant: &TenantId) -> bool {
        if self.is_system {
            self.scopes.iter().any(|scope| scope.as_str().strip_prefix(TENANT_SCOPE) == Some(tenant.as_str()))
        } else {
            self.tenant().as_ref() == Some(tenant)
        }
    }
}

/// Whether a token says that Account Manager signed it.
fn is_system(token: &str) -> bool {
    jwt::claims_to_be_of_account_manager(token)
}
