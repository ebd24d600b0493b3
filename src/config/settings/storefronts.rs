//! `[[tenants.storefronts]]`: the storefronts whose sessions are in cookies.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::types::{ClientId, SiteId};

/// A storefront whose sessions are in cookies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storefront {
    /// Its site.
    pub site: SiteId,
    /// Its SLAS client, one of the tenant's.
    pub client_id: ClientId,
    /// Values of the session cookies.
    pub cookies: CookieMode,
    /// Domain of the cookies, as in the file; `None`: the cookies belong to the storefront's host alone.
    pub cookie_domain: Option<String>,
    /// Whether the names of the session cookies begin with `__Host-`. Never true with a `cookie_domain` or with
    /// [`CookieMode::PwaKit`].
    pub host_prefix: bool,
    /// How long the refresh cookie of a guest lives; `None`: as long as SLAS's refresh token.
    pub refresh_guest: Option<Duration>,
    /// How long the refresh cookie of a registered shopper lives; `None`: as long as SLAS's refresh token.
    pub refresh_registered: Option<Duration>,
    /// Origins that may show the storefront in a frame, in addition to Salesforce's.
    pub preview_origins: Vec<String>,
    /// Path before `/mobify`: empty, or `/` and one segment.
    pub base_path: String,
}

/// Values of the session cookies.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CookieMode {
    /// Tokens, in cookies with the names and attributes of PWA Kit.
    #[default]
    PwaKit,
    /// Random ids. The tokens stay in the store.
    Reference,
}
