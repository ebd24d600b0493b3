//! The prefixes below which storefronts call the gateway.
//!
//! PWA Kit's storefronts call `/mobify/slas/private`, `/mobify/slas/public` and `/mobify/proxy/api` of their own host, below an
//! optional base path (`base_path` of `[[tenants.storefronts]]`). The rest of such a path is Salesforce's own.

use crate::gateway::{path::RequestPath, request::PathPrefix};

/// PWA Kit's prefixes.
const PREFIXES: [(&str, PathPrefix); 3] = [
    ("/mobify/slas/private", PathPrefix::SlasPrivate),
    ("/mobify/slas/public", PathPrefix::SlasPublic),
    ("/mobify/proxy/api", PathPrefix::Api),
];

/// A path without the prefix of a storefront.
#[derive(Debug)]
pub(super) struct PrefixedPath<'a> {
    /// Salesforce's own path.
    pub(super) path: RequestPath<'a>,
    pub(super) prefix: PathPrefix,
    /// The base path before the prefix; empty if there is none.
    pub(super) base: &'a str,
}

impl<'a> PrefixedPath<'a> {
    /// Splits a path that may begin with one of these base paths.
    pub(super) fn split(received: RequestPath<'a>, base_paths: &'a [String]) -> Self {
        for base in base_paths {
            if let Some(below) = received.without_prefix(base)
                && let Some((path, prefix)) = without_prefix(&below)
            {
                return Self { path, prefix, base };
            }
        }
        match without_prefix(&received) {
            Some((path, prefix)) => Self { path, prefix, base: "" },
            None => Self { path: received, prefix: PathPrefix::None, base: "" },
        }
    }

    /// Whether only the storefronts of a configuration have such a path. PWA Kit's prefix for private clients is always served.
    pub(super) fn needs_storefront(&self) -> bool {
        !self.base.is_empty() || matches!(self.prefix, PathPrefix::SlasPublic | PathPrefix::Api)
    }
}

fn without_prefix<'a>(path: &RequestPath<'a>) -> Option<(RequestPath<'a>, PathPrefix)> {
    PREFIXES.into_iter().find_map(|(text, prefix)| Some((path.without_prefix(text)?, prefix)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(text: &'a str, base_paths: &'a [String]) -> (String, PathPrefix, &'a str) {
        let PrefixedPath { path, prefix, base } = PrefixedPath::split(RequestPath::parse(text).unwrap(), base_paths);
        (path.raw().to_owned(), prefix, base)
    }

    #[test]
    fn prefix_and_base_path_are_split_from_the_path() {
        let bases = ["/shop".to_owned(), "/en-us".to_owned()];
        for (text, path, prefix, base) in [
            ("/search/a", "/search/a", PathPrefix::None, ""),
            ("/mobify/slas/private/shopper/a", "/shopper/a", PathPrefix::SlasPrivate, ""),
            ("/mobify/slas/public/shopper/a", "/shopper/a", PathPrefix::SlasPublic, ""),
            ("/mobify/proxy/api/search/a", "/search/a", PathPrefix::Api, ""),
            ("/shop/mobify/proxy/api/search/a", "/search/a", PathPrefix::Api, "/shop"),
            ("/en-us/mobify/slas/private/shopper/a", "/shopper/a", PathPrefix::SlasPrivate, "/en-us"),
            ("/other/mobify/proxy/api/search/a", "/other/mobify/proxy/api/search/a", PathPrefix::None, ""),
            ("/mobify/proxy/apis/search/a", "/mobify/proxy/apis/search/a", PathPrefix::None, ""),
            ("/mobify/proxy/other/search/a", "/mobify/proxy/other/search/a", PathPrefix::None, ""),
            ("/shopping/mobify/proxy/api/a", "/shopping/mobify/proxy/api/a", PathPrefix::None, ""),
        ] {
            assert_eq!(split(text, &bases), (path.to_owned(), prefix, base), "{text}");
        }
    }

    #[test]
    fn path_is_split_once() {
        let path = "/mobify/proxy/api/mobify/proxy/api/a";
        assert_eq!(split(path, &[]), ("/mobify/proxy/api/a".to_owned(), PathPrefix::Api, ""));
    }
}
