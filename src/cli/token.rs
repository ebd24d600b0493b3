//! `token inspect`: what a token says, what it may, and why it would be refused.
//!
//! Owns the words. Its rooms, in the order of the work: `input` takes the token, `claimed` takes it apart, `judgement` says what
//! it is worth. Prints claims, never the token or its signature.

mod claimed;
mod input;
mod judgement;

use std::{fmt::Write as _, path::Path};

use self::{
    claimed::{Claimed, printable},
    judgement::{Judgement, Signature, by_claims},
};
use super::{
    failure::Failure,
    terminal::{BAD, DOUBT, GOOD, HEADING, Terminal, styled},
};
use crate::{
    app,
    gateway::policy::{Operation, Operations, Security, SecurityKind},
    time::unix_now,
};

pub(super) fn inspect(config: Option<&Path>, terminal: &Terminal) -> Result<(), Failure> {
    let token = input::read()?;
    let claimed = Claimed::read(&token).map_err(input::no_token)?;
    let mut judgement = by_claims(&token, &claimed);
    let operations = match config {
        Some(path) => {
            let settings = app::load(path)?.settings;
            let (operations, callers) = app::build_policy(&settings).map_err(Failure::of)?;
            judgement.ask_gateway(&settings, &callers, &token, &claimed)?;
            operations
        }
        None => Operations::published().map_err(Failure::of)?,
    };
    terminal.print(&claimed.describe(unix_now()))?;
    terminal.print(&describe(&operations, &claimed, &judgement)?)?;
    if judgement.against.is_empty() { Ok(()) } else { Err(Failure::Said) }
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
    let may = if judgement.against.is_empty() { "It may call" } else { "If it were accepted, it could call" };
    let heading = format!("{may} {} of {} operations", allowed.len(), operations.iter().len());
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
    let is_met = |security: &Security| match security.kind {
        SecurityKind::System => !claimed.is_for_roles() && security.is_met_by(&claimed.scopes),
        SecurityKind::SystemByRole => true,
        SecurityKind::Shopper | SecurityKind::ShopperTsob | SecurityKind::ShopperTaob => false,
    };
    let is_callers = match (&judgement.caller, &judgement.organization) {
        (Some(caller), Some(organization)) => caller.may_system(operation, organization, None),
        _ => true,
    };
    is_callers && operation.security.iter().any(is_met)
}
