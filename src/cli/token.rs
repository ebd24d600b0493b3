//! `token inspect`: explains a token: claims, allowed operations, reasons for rejection.
//!
//! `input` reads the token, `content` decodes it, `verdict` checks it. Claims are printed, and never the token or its signature.

mod content;
mod input;
mod verdict;

use std::{fmt::Write as _, path::Path};

use self::{
    content::{DecodedToken, escape_unprintable},
    verdict::{SignatureStatus, Verdict, check_content},
};
use super::{
    error::CommandError,
    terminal::{ERROR_STYLE, HEADING_STYLE, OK_STYLE, Terminal, WARNING_STYLE, styled},
};
use crate::{
    app,
    gateway::policy::{Operation, Operations, Security, SecurityKind},
    time::unix_now,
};

pub(super) fn inspect(config: Option<&Path>, terminal: &Terminal) -> Result<(), CommandError> {
    let token = input::read_token()?;
    let decoded = DecodedToken::read(&token).map_err(input::invalid_token)?;
    let mut verdict = check_content(&token, &decoded);
    let operations = match config {
        Some(path) => {
            let settings = app::load(path)?.settings;
            let (operations, callers) = app::build_policy(&settings).map_err(CommandError::from_display)?;
            verdict.verify_with_config(&settings, &callers, &token, &decoded)?;
            operations
        }
        None => Operations::published().map_err(CommandError::from_display)?,
    };
    terminal.print(&decoded.describe(unix_now()))?;
    terminal.print(&describe(&operations, &decoded, &verdict)?)?;
    if verdict.rejections.is_empty() { Ok(()) } else { Err(CommandError::Reported) }
}

fn describe(operations: &Operations, decoded: &DecodedToken, verdict: &Verdict) -> Result<String, CommandError> {
    let mut text = String::new();
    let signature = match verdict.signature {
        SignatureStatus::Verified => styled(OK_STYLE, "verified with a key of its issuer"),
        SignatureStatus::Invalid => styled(ERROR_STYLE, "not accepted"),
        SignatureStatus::NotChecked(why) => format!("{}: {why}", styled(WARNING_STYLE, "not checked")),
    };
    let mut line = |line: String| writeln!(text, "{line}").map_err(CommandError::from_display);
    line(format!("{}  {signature}", styled(HEADING_STYLE, "Signature")))?;
    if let Some(caller) = &verdict.caller {
        line(format!("{}  {}", styled(HEADING_STYLE, "Caller   "), escape_unprintable(&caller.settings.name)))?;
    }
    let mut allowed: Vec<_> = operations.iter().filter(|operation| may_call(operation, decoded, verdict)).collect();
    allowed.sort_by(|one, other| (&one.api, &one.id).cmp(&(&other.api, &other.id)));
    let condition = if verdict.rejections.is_empty() { "" } else { " if the token were accepted" };
    let heading = format!("Allowed operations{condition}: {} of {}", allowed.len(), operations.iter().len());
    line(format!("\n{}", styled(HEADING_STYLE, heading)))?;
    for of_one in allowed.chunk_by(|one, other| one.api == other.api) {
        let mut ids: Vec<_> = of_one.iter().map(|operation| operation.id.as_str()).collect();
        ids.dedup();
        line(format!("  {}: {}", of_one.first().map_or("", |operation| &operation.api), ids.join(" ")))?;
    }
    line(String::new())?;
    match (verdict.rejections.as_slice(), verdict.signature) {
        ([], SignatureStatus::Verified) => line(styled(OK_STYLE, "The gateway would accept this token."))?,
        ([], _) => line(format!("{}, but the signature was not checked.", styled(WARNING_STYLE, "No check failed")))?,
        (rejections, _) => {
            for (code, why) in rejections {
                line(format!("{} {code}: {why}", styled(ERROR_STYLE, "Rejected:")))?;
            }
        }
    }
    Ok(text)
}

/// Whether the policy allows an operation for this token, by its kind, delegation, scopes and caller.
fn may_call(operation: &Operation, decoded: &DecodedToken, verdict: &Verdict) -> bool {
    if !decoded.is_system {
        return operation.shopper_alternatives(decoded.delegation).any(|security| security.is_met_by(&decoded.scopes));
    }
    let is_met = |security: &Security| match security.kind {
        SecurityKind::System => !decoded.is_role_based() && security.is_met_by(&decoded.scopes),
        SecurityKind::SystemByRole => true,
        SecurityKind::Shopper | SecurityKind::ShopperTsob | SecurityKind::ShopperTaob => false,
    };
    let is_callers = match (&verdict.caller, &verdict.organization) {
        (Some(caller), Some(organization)) => caller.may_call_system_operation(operation, organization, None),
        _ => true,
    };
    is_callers && operation.security.iter().any(is_met)
}
