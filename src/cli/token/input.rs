//! Reads the token from standard input: alone, with its scheme, or as a whole header line.
//!
//! A header is parsed exactly as in a request. Errors never quote the input.

use std::io::{self, Read as _};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use super::super::error::CommandError;
use crate::gateway::{authorization_header::Authorization, error::GatewayError, problem};

/// Maximum bytes of input, more than any token has.
const MAX_INPUT_BYTES: usize = 64 * 1024;

/// Reads the token from standard input.
pub(super) fn read_token() -> Result<String, CommandError> {
    let mut bytes = Vec::new();
    let read = io::stdin().take(MAX_INPUT_BYTES as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| CommandError::context("standard input")(error.kind()))?;
    if bytes.len() > MAX_INPUT_BYTES {
        return Err(invalid_token("the token is too long"));
    }
    let text = str::from_utf8(&bytes);
    let text = text.map_err(|_| CommandError::Other("standard input is not text in UTF-8".to_owned()))?;
    extract_token(text)
}

/// The error for input that is not a token.
pub(super) fn invalid_token(why: &str) -> CommandError {
    CommandError::Other(format!("{}: {why}", problem::code(&GatewayError::TokenInvalid(String::new()))))
}

fn extract_token(text: &str) -> Result<String, CommandError> {
    let text = text.trim();
    let credential = match text.split_once(':') {
        Some((name, value)) if name.eq_ignore_ascii_case(AUTHORIZATION.as_str()) => value.trim(),
        _ => text,
    };
    if credential.is_empty() {
        return Err(CommandError::Other(
            "standard input has no token; pipe one in: printenv TOKEN | shopper-gateway token inspect".to_owned(),
        ));
    }
    if !credential.contains(char::is_whitespace) {
        return Ok(credential.to_owned());
    }
    let unreadable = || invalid_token("neither a token alone nor an Authorization field with one");
    let value = HeaderValue::from_str(credential).map_err(|_| unreadable())?;
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    match Authorization::parse(&headers) {
        Ok(Authorization::Bearer(token)) => Ok(token.expose_secret().to_owned()),
        Ok(Authorization::Basic(_)) => Err(invalid_token("these are Basic credentials; expected a bearer token")),
        Ok(Authorization::Nothing) => Err(unreadable()),
        Err(GatewayError::TokenInvalid(why)) => Err(invalid_token(&why)),
        Err(_) => Err(unreadable()),
    }
}
