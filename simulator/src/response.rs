//! The response of a service, and the error formats of SCAPI, SLAS and OAuth 2.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

/// A complete response: status, headers, body.
#[derive(Clone, Debug)]
pub(crate) struct ServiceResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// The return type of services: `?` returns early with an error response.
pub(crate) type Outcome = Result<ServiceResponse, ServiceResponse>;

const ERRORS: &str = "https://api.commercecloud.salesforce.com/documentation/error/v1/errors/";

impl ServiceResponse {
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn body(status: StatusCode, content_type: &str, body: Vec<u8>) -> Self {
        Self { body, ..Self::empty(status).with("content-type", content_type) }
    }

    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        Self::body(status, "application/json;charset=UTF-8", value.to_string().into_bytes())
    }

    pub(crate) fn ok(value: &Value) -> Self {
        Self::json(StatusCode::OK, value)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// SCAPI's problem+json. Its type is the title in kebab case.
    pub(crate) fn problem(status: StatusCode, title: &str, detail: &str) -> Self {
        Self::problem_with(status, title, detail, Map::new())
    }

    /// The same with more members: some errors carry the offending id.
    pub(crate) fn problem_with(status: StatusCode, title: &str, detail: &str, more: Map<String, Value>) -> Self {
        let kebab = title.to_lowercase().replace(' ', "-");
        Self::problem_named(status, &kebab, title, detail, more)
    }

    /// The same with a type that differs from the title.
    pub(crate) fn problem_named(
        status: StatusCode,
        kebab: &str,
        title: &str,
        detail: &str,
        more: Map<String, Value>,
    ) -> Self {
        let mut document = Map::new();
        document.insert("title".into(), title.into());
        document.insert("type".into(), format!("{ERRORS}{kebab}").into());
        document.insert("detail".into(), detail.into());
        document.extend(more);
        let body = Value::Object(document).to_string().into_bytes();
        Self::body(status, "application/problem+json", body)
    }

    /// The error format of SLAS.
    pub(crate) fn slas(status: StatusCode, error: &str, description: &str) -> Self {
        Self::slas_with_message(status, error, description, description)
    }

    /// The same where storefronts look for a certain `message`, which they read instead of the published members.
    pub(crate) fn slas_with_message(status: StatusCode, error: &str, description: &str, message: &str) -> Self {
        let document = json!({
            "error": error,
            "error_uri": format!("{ERRORS}oauth-service"),
            "error_description": description,
            "message": message,
        });
        Self::body(status, "application/problem+json", document.to_string().into_bytes())
    }

    /// The error format of Account Manager.
    pub(crate) fn oauth(status: StatusCode, error: &str, description: &str) -> Self {
        Self::json(status, &json!({"error": error, "error_description": description}))
    }

    /// SLAS: 400 `invalid_request`.
    pub(crate) fn invalid_request(description: &str) -> Self {
        Self::slas(StatusCode::BAD_REQUEST, "invalid_request", description)
    }

    /// SLAS: 401 `invalid_client`.
    pub(crate) fn invalid_client(description: &str) -> Self {
        Self::slas(StatusCode::UNAUTHORIZED, "invalid_client", description)
    }

    pub(crate) fn see_other(location: String) -> Self {
        Self::empty(StatusCode::SEE_OTHER).with("location", location)
    }
}
