//! A merchant's own operation, from `[[routes]]`.

use http::Method;

use super::{
    error::TableError,
    glob,
    operation::{Operation, OperationKind, Security},
    path_template::Template,
};

/// A merchant's own operation, as configured.
#[derive(Debug, Clone)]
pub struct CustomRoute {
    /// `{api}.{id}`, or only an id, for the API `custom`.
    pub name: String,
    /// The HTTP method.
    pub method: Method,
    /// The path, with `{…}` for parameters. It must contain `{organizationId}`.
    pub template: String,
    /// The credentials, one of which is sufficient.
    pub security: Vec<Security>,
}

impl CustomRoute {
    /// Converts the route.
    ///
    /// # Errors
    /// [`TableError`] if the name or the path is invalid, or if `security` is empty.
    pub(super) fn into_operation(self) -> Result<Operation, TableError> {
        let (api, id) = glob::split_name(&self.name);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if [api, id].iter().any(|part| part.is_empty() || !part.bytes().all(is_word)) {
            return Err(TableError::Name);
        }
        if self.security.is_empty() {
            return Err(TableError::NoSecurity { name: format!("{api}.{id}") });
        }
        let parameters = Template::parse(&self.template, &[])?.parameters;
        if !parameters.iter().any(|parameter| parameter.name == "organizationId") {
            return Err(TableError::NoOrganization);
        }
        Ok(Operation {
            name: format!("{api}.{id}"),
            api: api.to_owned(),
            id: id.to_owned(),
            method: self.method,
            template: self.template,
            parameters,
            security: self.security,
            body_limit: None,
            kind: OperationKind::Merchant,
        })
    }
}
