//! A storefront of the configuration, and what its requests are for.

use super::session_cookies::CookieSettings;
use crate::{
    config::{self, AllowedOrigin, CookieMode},
    types::{ClientId, SiteId},
};

/// A storefront of the configuration.
#[derive(Debug)]
pub(in crate::gateway) struct Storefront {
    pub(super) site: SiteId,
    pub(super) client: ClientId,
    pub(super) cookies: CookieSettings,
    pub(super) origins: Vec<AllowedOrigin>,
    pub(super) preview_origins: Vec<String>,
}

/// What a request with cookies is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::gateway) enum Purpose {
    /// An operation that needs a shopper token.
    Call,
    /// A request for tokens.
    Token,
    /// A logout.
    Logout,
}

impl Storefront {
    pub(super) fn new(tenant: &config::Tenant, entry: &config::Storefront) -> Self {
        Self {
            site: entry.site.clone(),
            client: entry.client_id.clone(),
            cookies: CookieSettings {
                site: entry.site.clone(),
                domain: entry.cookie_domain.clone(),
                host_prefix: entry.host_prefix,
                refresh_guest: entry.refresh_guest,
                refresh_registered: entry.refresh_registered,
                is_reference: entry.cookies == CookieMode::Reference,
            },
            origins: tenant.origins.clone(),
            preview_origins: entry.preview_origins.clone(),
        }
    }
}
