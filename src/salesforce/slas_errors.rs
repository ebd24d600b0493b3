//! What SLAS's refusals mean: one table of its published errors, and of those that clients have reported.
//!
//! SLAS uses `invalid_request` for almost everything and tells the reason in a sentence. The table turns such an answer
//! into the RFC 6749 code (5.2) that says what to do: `invalid_grant` ends a session, `invalid_client` means that the
//! gateway's own client is misconfigured. An answer that is not in the table keeps its own code and ends nothing.

/// The refresh token, code or session is void: whoever holds it must log in again.
const VOID: &str = "invalid_grant";
/// The SLAS client of the configuration is unknown, has another secret, or may not do this.
const MISCONFIGURED: &str = "invalid_client";

/// One refusal: the `error` that it has, or any if empty, part of its sentence in lower case, and its code.
struct Row {
    error: &'static str,
    says: &'static str,
    code: &'static str,
}

const fn row(error: &'static str, says: &'static str, code: &'static str) -> Row {
    Row { error, says, code }
}

/// The first row that fits counts. The sentence is `error_description` of SLAS or `message` of its older answers.
const TABLE: [Row; 16] = [
    // RFC 6749, 5.2: about the client, whatever the sentence says.
    row(MISCONFIGURED, "", MISCONFIGURED),
    row("unauthorized_client", "", MISCONFIGURED),
    // Published, `auth` 1.50.0, revokeToken; getAccessToken answers the same for a void refresh token.
    row("invalid_request", "bad or missing refresh token", VOID),
    // Older answers of getAccessToken, as storefronts know them.
    row("", "invalid refresh_token", VOID),
    row("", "invalid refresh token", VOID),
    row("", "refresh token expired", VOID),
    row("", "refresh token is expired", VOID),
    // The shopper has changed the password elsewhere.
    row("", "credentials changed after token was issued", VOID),
    // Published, authenticateCustomer, getAccessToken, getTrustedSystemAccessToken, logoutCustomer, revokeToken.
    row("invalid_request", "bad or missing client_id", MISCONFIGURED),
    // The same form for what the configuration says: site, redirect URI and grant.
    row("invalid_request", "bad or missing channel_id", MISCONFIGURED),
    row("invalid_request", "bad or missing redirect_uri", MISCONFIGURED),
    row("invalid_request", "bad or missing grant_type", MISCONFIGURED),
    row("invalid_request", "tenant id exception", MISCONFIGURED),
    // RFC 6749, 5.2.
    row("unsupported_grant_type", "", MISCONFIGURED),
    row("invalid_scope", "", "invalid_scope"),
    row(VOID, "", VOID),
];

/// The code of a refusal with this `error` and this sentence; `None` if the table does not know it.
#[must_use]
pub(super) fn code(error: &str, sentence: &str) -> Option<&'static str> {
    let (error, sentence) = (error.to_ascii_lowercase(), sentence.to_ascii_lowercase());
    let fits = |row: &&Row| (row.error.is_empty() || row.error == error) && sentence.contains(row.says);
    TABLE.iter().find(fits).map(|row| row.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_in_any_case_and_with_words_around_has_its_code() {
        for (error, sentence, expected) in [
            ("INVALID_REQUEST", "BAD OR MISSING REFRESH TOKEN", VOID),
            ("server_said", "Error: Invalid refresh_token (x)", VOID),
            ("", "The refresh token is expired.", VOID),
            ("", "Refresh token expired", VOID),
            ("x", "Credentials changed after token was issued", VOID),
            ("invalid_grant", "", VOID),
            ("invalid_request", "Bad or missing channel_id", MISCONFIGURED),
            ("invalid_request", "Bad or missing redirect_uri.", MISCONFIGURED),
            ("invalid_request", "Bad or missing grant_type", MISCONFIGURED),
            ("Unauthorized_Client", "whatever", MISCONFIGURED),
            ("unsupported_grant_type", "", MISCONFIGURED),
            ("invalid_scope", "", "invalid_scope"),
        ] {
            assert_eq!(code(error, sentence), Some(expected), "{error} {sentence}");
        }
    }

    /// Every example of an operation in use in the published description of `auth`, 1.50.0, that is a 4xx.
    #[test]
    fn published_examples_mean_what_they_say() {
        for (error, description, expected) in [
            ("invalid_request", "Bad or missing client_id.", Some(MISCONFIGURED)),
            ("invalid_request", "Bad or missing refresh token.", Some(VOID)),
            ("invalid_client", "Basic Authorization failed.", Some(MISCONFIGURED)),
            ("invalid_client", "Authorization failed.", Some(MISCONFIGURED)),
            ("invalid_request", "Tenant Id Exception - Must be a well-formed tenantId", Some(MISCONFIGURED)),
            // It says nothing of the refresh token that was sent: it ends nothing.
            ("invalid_request", "Bad or missing access token.", None),
            ("invalid_request", "Bad or missing access token or refresh token", None),
            ("invalid_request", "Bad or missing request parameters.", None),
            ("not_found", "User Not Found", None),
            ("invalid_client", "Invalid refresh token", Some(MISCONFIGURED)),
            ("conflict", "The same loginId and tenantId tried to login twice within 1 second.", None),
        ] {
            assert_eq!(code(error, description), expected, "{error}: {description}");
        }
    }

    #[test]
    fn unknown_refusal_has_no_code() {
        for (error, sentence) in
            [("", ""), ("invalid_request", ""), ("server_error", "down"), ("<html>", "Bad gateway")]
        {
            assert_eq!(code(error, sentence), None, "{error} {sentence}");
        }
    }
}
