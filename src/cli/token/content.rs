//! Decodes a token for display. Nothing is verified, and the result is only printed.

use std::fmt::Write as _;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::super::terminal::{DIM_STYLE, HEADING_STYLE, styled};
use crate::{
    jwt::{self, MAX_TOKEN_BYTES},
    types::{Scopes, TENANT_SCOPE_PREFIX, TenantId},
    verify::{isb::Isb, shopper::Delegation},
};

/// Claims that are times (RFC 7519, 4.1), and their meaning.
const TIME_CLAIMS: [(&str, &str); 3] = [("iat", "issued"), ("nbf", "valid from"), ("exp", "expires")];

/// The decoded, unverified content of a token.
pub(super) struct DecodedToken {
    header: Map<String, Value>,
    claims: Map<String, Value>,
    /// The claims as received.
    pub(super) payload: Vec<u8>,
    /// Whether the issuer is Account Manager; otherwise it is SLAS.
    pub(super) is_system: bool,
    pub(super) scopes: Scopes,
    pub(super) delegation: Delegation,
}

impl DecodedToken {
    /// Decodes a token.
    ///
    /// # Errors
    /// Returns why the text is not a JWT, without quoting it.
    pub(super) fn read(token: &str) -> Result<Self, &'static str> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err("the token is too long");
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err("not a JWT: expected three parts separated by dots");
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "not a JWT: a part is not base64url");
        let object = |bytes: &[u8]| serde_json::from_slice(bytes).map_err(|_| "not a JWT: a part is not a JSON object");
        let (header, payload) = (decode(header)?, decode(payload)?);
        let claims: Map<String, Value> = object(&payload)?;
        let is_system = jwt::has_system_token_algorithm(token);
        let scopes = claims.get(if is_system { "scope" } else { "scp" });
        let words = match scopes {
            Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let isb = claims.get("isb").and_then(Value::as_str).and_then(|isb| isb.parse::<Isb>().ok());
        Ok(Self {
            header: object(&header)?,
            is_system,
            scopes: words.parse().unwrap_or_default(),
            delegation: isb.map(|isb| isb.delegation).unwrap_or_default(),
            claims,
            payload,
        })
    }

    pub(super) fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim).and_then(Value::as_str)
    }

    pub(super) fn number(&self, claim: &str) -> Option<u64> {
        self.claims.get(claim).and_then(Value::as_u64)
    }

    /// The token's tenant. A shopper token names one tenant; a system token may name several, of which this is the first.
    pub(super) fn tenant(&self) -> Option<TenantId> {
        if self.is_system {
            return self.scopes.iter().find_map(|scope| scope.as_str().strip_prefix(TENANT_SCOPE_PREFIX)?.parse().ok());
        }
        let issuer = self.text("iss")?;
        issuer.strip_prefix("slas/")?.split_once('/')?.1.parse().ok()
    }

    /// Whether the token names this tenant.
    pub(super) fn is_for_tenant(&self, tenant: &TenantId) -> bool {
        if self.is_system {
            self.scopes.iter().any(|scope| scope.as_str().strip_prefix(TENANT_SCOPE_PREFIX) == Some(tenant.as_str()))
        } else {
            self.tenant().as_ref() == Some(tenant)
        }
    }

    /// Whether the token is a system token without a tenant. It is valid only for operations that Salesforce authorizes by roles.
    pub(super) fn is_role_based(&self) -> bool {
        self.is_system && self.tenant().is_none()
    }

    /// The signature algorithm of the token's header.
    pub(super) fn algorithm(&self) -> Option<&str> {
        self.header.get("alg").and_then(Value::as_str)
    }

    /// The token's kind, header and claims as text.
    pub(super) fn describe(&self, now: u64) -> String {
        let kind = match (self.is_system, self.delegation) {
            (true, _) => "system token, of Account Manager",
            (false, Delegation { tsob: true, .. }) => "shopper token, of SLAS, obtained on behalf by a trusted system",
            (false, Delegation { taob: true, .. }) => "shopper token, of SLAS, obtained on behalf by a trusted agent",
            (false, _) if self.text("isb").is_some_and(|isb| isb.contains("rcid:")) => {
                "shopper token, of SLAS, registered"
            }
            (false, _) => "shopper token, of SLAS, guest",
        };
        let mut text = format!("{}       {kind}\n", styled(HEADING_STYLE, "Kind"));
        for (heading, members) in [("Header", &self.header), ("Claims", &self.claims)] {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\n{}", styled(HEADING_STYLE, heading));
            let width = members.keys().map(|name| name.chars().count()).max().unwrap_or_default().min(12);
            for (name, value) in members {
                let time = TIME_CLAIMS
                    .iter()
                    .find(|(claim, _)| claim == name)
                    .and_then(|(_, word)| Some((word, value.as_u64()?)));
                let time = time.map(|(word, at)| styled(DIM_STYLE, format!("  {word} {}", format_time(at, now))));
                let (name, value) = (escape_unprintable(name), escape_unprintable(&value.to_string()));
                let _ = writeln!(text, "  {name:width$}  {value}{}", time.unwrap_or_default());
            }
        }
        text.push('\n');
        text
    }
}

/// A time, and its distance from now.
fn format_time(at: u64, now: u64) -> String {
    let spoken = |seconds: u64| humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string();
    let distance = match at.checked_sub(now) {
        Some(ahead) => format!("in {}", spoken(ahead)),
        None => format!("{} ago", spoken(now - at)),
    };
    // RFC 3339 has no years beyond 9999.
    let time = std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(at)).filter(|_| at < 253_402_300_800);
    match time {
        Some(time) => format!("{}, {distance}", humantime::format_rfc3339_seconds(time)),
        None => distance,
    }
}

/// Escapes characters that could control a terminal or reverse its text direction.
pub(super) fn escape_unprintable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, character| {
        if character == ' ' || character.is_ascii_graphic() || character.is_alphanumeric() {
            safe.push(character);
        } else {
            safe.extend(character.escape_unicode());
        }
        safe
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_claims_are_escaped() {
        assert_eq!(escape_unprintable("plain é 1"), "plain é 1");
        assert_eq!(escape_unprintable("a\u{1b}[2J\u{202e}\u{9b}\n"), "a\\u{1b}[2J\\u{202e}\\u{9b}\\u{a}");
    }

    #[test]
    fn time_claims_are_shown_relative_to_now() {
        assert_eq!(format_time(1_000, 940), "1970-01-01T00:16:40Z, in 1m");
        assert_eq!(format_time(940, 1_000), "1970-01-01T00:15:40Z, 1m ago");
        assert!(format_time(u64::MAX, 0).starts_with("in "));
    }

    #[test]
    fn invalid_token_error_does_not_quote_the_token() {
        for text in ["", "a", "a.b", "a.b.c.d", "{}.{}.", "bm8.bm8.bm8"] {
            let problem = DecodedToken::read(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(problem.starts_with("not a JWT: "), "{problem}");
        }
    }
}
