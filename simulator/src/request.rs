//! The parsed form of a request: path, query, form, credentials. Decisions are made elsewhere.

use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use base64::{Engine, engine::general_purpose::STANDARD};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// A received request with its whole body.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) method: Method,
    /// As received, undecoded.
    pub(crate) path: String,
    /// As received, without the `?`.
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// Name and value pairs of a query or a form. An empty value counts as absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields(Vec<(String, String)>);

impl Fields {
    fn parse(text: &[u8]) -> Self {
        Self(serde_urlencoded::from_bytes(text).unwrap_or_default())
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// All values of a repeated name.
    pub(crate) fn values<'f>(&'f self, name: &'f str) -> impl Iterator<Item = &'f str> {
        self.0.iter().filter(move |(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// The number of that name, or a default for none and for text that is no number.
    pub(crate) fn number(&self, name: &str, default: usize) -> usize {
        self.value(name).and_then(|value| value.parse().ok()).unwrap_or(default)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.value(name).unwrap_or_default()
    }

    pub(crate) fn document(&self) -> Value {
        let pairs = self.0.iter();
        Value::Object(pairs.map(|(key, value)| (key.clone(), value.clone().into())).collect::<Map<_, _>>())
    }
}

impl ReceivedRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn parameters(&self) -> Fields {
        Fields::parse(self.query.as_bytes())
    }

    pub(crate) fn form(&self) -> Fields {
        Fields::parse(&self.body)
    }

    /// The JSON object of the body; a body that is no JSON object yields an empty one.
    pub(crate) fn object(&self) -> Map<String, Value> {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn segments(&self) -> Vec<String> {
        let parts = self.path.split('/').skip(1);
        parts.map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect()
    }

    /// User and password of `Authorization: Basic`.
    pub(crate) fn basic(&self) -> Option<(String, String)> {
        let value = self.header("authorization")?;
        let (scheme, encoded) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("basic").then(|| pair(encoded)).flatten()
    }

    /// User and password of a header that carries only their base64.
    pub(crate) fn bare_basic(&self, name: &str) -> Option<(String, String)> {
        pair(self.header(name)?)
    }

    /// The same for a header in which some clients write `Basic` before the base64.
    pub(crate) fn optional_scheme_basic(&self, name: &str) -> Option<(String, String)> {
        let value = self.header(name)?;
        pair(value.strip_prefix("Basic ").unwrap_or(value))
    }

    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    }
}

/// A password may contain colons, a user may not.
fn pair(encoded: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
