//! Maps SLAS's error responses to codes of RFC 6749, 5.2.
//!
//! SLAS uses `invalid_request` for almost every error, and gives the reason in a sentence. The table contains its published
//! errors and errors reported by clients. `invalid_grant` ends a session. `invalid_client` means that the gateway's own client is
//! misconfigured. A response that is not in the table keeps its own code and ends no session.

/// The refresh token, code or session is invalid, and the shopper must log in again.
const INVALID_GRANT: &str = "invalid_grant";
/// The configured SLAS client is unknown, has another secret, or lacks a permission.
const INVALID_CLIENT: &str = "invalid_client";

/// The value of `error` (empty for any), a part of the sentence in lower case, and the code. The first matching row applies. The
/// sentence is `error_description`, or `message` in older responses.
const CODES: [(&str, &str, &str); 16] = [
    // RFC 6749, 5.2: about the client, regardless of the sentence.
    (INVALID_CLIENT, "", INVALID_CLIENT),
    ("unauthorized_client", "", INVALID_CLIENT),
    // Published, `auth` 1.50.0, revokeToken; getAccessToken responds the same to an invalid refresh token.
    ("invalid_request", "bad or missing refresh token", INVALID_GRANT),
    // Older responses of getAccessToken, reported by storefronts.
    ("", "invalid refresh_token", INVALID_GRANT),
    ("", "invalid refresh token", INVALID_GRANT),
    ("", "refresh token expired", INVALID_GRANT),
    ("", "refresh token is expired", INVALID_GRANT),
    // The shopper has changed the password.
    ("", "credentials changed after token was issued", INVALID_GRANT),
    // Published, authenticateCustomer, getAccessToken, getTrustedSystemAccessToken, logoutCustomer, revokeToken.
    ("invalid_request", "bad or missing client_id", INVALID_CLIENT),
    // The same form for configured values: site, redirect URI and grant.
    ("invalid_request", "bad or missing channel_id", INVALID_CLIENT),
    ("invalid_request", "bad or missing redirect_uri", INVALID_CLIENT),
    ("invalid_request", "bad or missing grant_type", INVALID_CLIENT),
    ("invalid_request", "tenant id exception", INVALID_CLIENT),
    // RFC 6749, 5.2.
    ("unsupported_grant_type", "", INVALID_CLIENT),
    ("invalid_scope", "", "invalid_scope"),
    (INVALID_GRANT, "", INVALID_GRANT),
];

/// Returns the code of an error response, or `None` if no row matches.
#[must_use]
pub(super) fn code(error: &str, sentence: &str) -> Option<&'static str> {
    let (error, sentence) = (error.to_ascii_lowercase(), sentence.to_ascii_lowercase());
    let row = CODES.iter().find(|row| (row.0.is_empty() || row.0 == error) && sentence.contains(row.1));
    row.map(|(_, _, code)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_code_ignores_case_and_surrounding_words() {
        for (error, sentence, expected) in [
            ("INVALID_REQUEST", "BAD OR MISSING REFRESH TOKEN", INVALID_GRANT),
            ("server_said", "Error: Invalid refresh_token (x)", INVALID_GRANT),
            ("", "The refresh token is expired.", INVALID_GRANT),
            ("", "Refresh token expired", INVALID_GRANT),
            ("x", "Credentials changed after token was issued", INVALID_GRANT),
            ("invalid_grant", "", INVALID_GRANT),
            ("invalid_request", "Bad or missing channel_id", INVALID_CLIENT),
            ("invalid_request", "Bad or missing redirect_uri.", INVALID_CLIENT),
            ("invalid_request", "Bad or missing grant_type", INVALID_CLIENT),
            ("Unauthorized_Client", "whatever", INVALID_CLIENT),
            ("unsupported_grant_type", "", INVALID_CLIENT),
            ("invalid_scope", "", "invalid_scope"),
        ] {
            assert_eq!(code(error, sentence), Some(expected), "{error} {sentence}");
        }
    }

    /// Every example of an operation in use in the published description of `auth`, 1.50.0, that is a 4xx.
    #[test]
    fn published_error_examples_have_expected_codes() {
        for (error, description, expected) in [
            ("invalid_request", "Bad or missing client_id.", Some(INVALID_CLIENT)),
            ("invalid_request", "Bad or missing refresh token.", Some(INVALID_GRANT)),
            ("invalid_client", "Basic Authorization failed.", Some(INVALID_CLIENT)),
            ("invalid_client", "Authorization failed.", Some(INVALID_CLIENT)),
            ("invalid_request", "Tenant Id Exception - Must be a well-formed tenantId", Some(INVALID_CLIENT)),
            // Not about the refresh token, so it ends no session.
            ("invalid_request", "Bad or missing access token.", None),
            ("invalid_request", "Bad or missing access token or refresh token", None),
            ("invalid_request", "Bad or missing request parameters.", None),
            ("not_found", "User Not Found", None),
            ("invalid_client", "Invalid refresh token", Some(INVALID_CLIENT)),
            ("conflict", "The same loginId and tenantId tried to login twice within 1 second.", None),
        ] {
            assert_eq!(code(error, description), expected, "{error}: {description}");
        }
    }

    #[test]
    fn unknown_error_has_no_code() {
        for (error, sentence) in
            [("", ""), ("invalid_request", ""), ("server_error", "down"), ("<html>", "Bad gateway")]
        {
            assert_eq!(code(error, sentence), None, "{error} {sentence}");
        }
    }
}
