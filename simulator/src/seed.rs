//! The data that exists at the start: organizations, clients, shoppers, products.
//!
//! This module only reads the document. The state that changes is in `world`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The default document, also shipped as `simulator/seed.toml`.
pub const DEFAULT_SEED: &str = include_str!("../seed.toml");

/// The data that exists at the start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seed {
    /// Organizations and their sites.
    pub organizations: Vec<Organization>,
    /// SLAS clients.
    #[serde(default)]
    pub slas_clients: Vec<SlasClient>,
    /// Account Manager API clients.
    #[serde(default)]
    pub account_manager_clients: Vec<AccountManagerClient>,
    /// Registered shoppers, present in every organization.
    #[serde(default)]
    pub shoppers: Vec<SeededShopper>,
    /// Identity providers that SLAS knows, in every organization.
    #[serde(default)]
    pub identity_providers: Vec<IdentityProvider>,
    /// The catalog.
    #[serde(default)]
    pub products: Vec<Product>,
    /// Categories of the catalog.
    #[serde(default)]
    pub categories: Vec<Category>,
}

/// One realm instance.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Organization {
    /// For example `f_ecom_zzrf_001`.
    pub id: String,
    /// Site ids.
    pub sites: Vec<String>,
}

impl Organization {
    /// The tenant id: the part after `f_ecom_`.
    pub fn tenant(&self) -> &str {
        tenant_of(&self.id)
    }
}

/// The tenant id of an organization id.
pub(crate) fn tenant_of(organization: &str) -> &str {
    organization.strip_prefix("f_ecom_").unwrap_or(organization)
}

/// A SLAS client; with a secret it is private, without one public.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlasClient {
    /// The client id.
    pub id: String,
    /// The secret of a private client.
    pub secret: Option<String>,
    /// Whether `/login` and `/authorize` need `x-slas-client-auth`.
    #[serde(default)]
    pub strict_client_auth: bool,
    /// Allowed redirect URIs of authorization codes; matched exactly.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
    /// Allowed callback URIs of one-time tokens; matched exactly.
    #[serde(default)]
    pub callback_uris: Vec<String>,
    /// `sfcc.ts_ext_on_behalf_of`, `sfcc.ta_ext_on_behalf_of`.
    #[serde(default)]
    pub on_behalf: Vec<String>,
    /// Shopper scopes; absent means all but `sfcc.shopper-standard`.
    pub scopes: Option<Vec<String>>,
    /// Organizations that know the client; empty means all.
    #[serde(default)]
    pub organizations: Vec<String>,
}

impl SlasClient {
    /// Whether it has a secret.
    pub fn is_private(&self) -> bool {
        self.secret.is_some()
    }
}

/// An Account Manager API client.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountManagerClient {
    /// The client id.
    pub id: String,
    /// The client secret.
    pub secret: String,
    /// Tenants for which it may request tokens.
    pub tenants: Vec<String>,
    /// System scopes; absent means all.
    pub scopes: Option<Vec<String>>,
    /// Roles, which decide about SLAS Admin; absent means all.
    pub roles: Option<Vec<String>>,
}

/// A registered shopper.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeededShopper {
    /// The login id, also the e-mail address.
    pub login: String,
    /// The password.
    pub password: String,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Addresses in the shape of the Shopper Customers API.
    #[serde(default)]
    pub addresses: Vec<Map<String, Value>>,
}

/// An identity provider. Its login page lets one user in at once.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityProvider {
    /// The name, which is the `hint` of `/authorize` and the `uido` of tokens.
    pub name: String,
    /// Whether `/authorize` without a `hint` means it.
    #[serde(default)]
    pub preferred: bool,
    /// The user's id at the provider.
    pub login: String,
    /// The user's e-mail address.
    pub email: String,
    /// The user's given name.
    pub first_name: String,
    /// The user's family name.
    pub last_name: String,
    /// Whether token responses carry `idp_refresh_token` too.
    #[serde(default)]
    pub refresh_token: bool,
}

/// One product.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Product {
    /// The SKU.
    pub id: String,
    /// The name.
    pub name: String,
    /// The price in the site's currency.
    pub price: f64,
    /// Id of its category.
    pub category: String,
    /// The variants of a master, which itself cannot be bought.
    #[serde(default)]
    pub variants: Vec<Variant>,
}

impl Product {
    /// Whether it has variants.
    pub fn is_master(&self) -> bool {
        !self.variants.is_empty()
    }
}

/// One variant of a master product.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// The SKU.
    pub id: String,
    /// The value of each variation attribute, such as `color`.
    pub values: BTreeMap<String, String>,
    /// The price, if it is not the master's.
    pub price: Option<f64>,
}

/// What a product id of the catalog means: a product, a master, or one variant of a master.
#[derive(Clone, Copy)]
pub(crate) struct Sku<'s> {
    pub(crate) product: &'s Product,
    pub(crate) variant: Option<&'s Variant>,
}

impl<'s> Sku<'s> {
    pub(crate) fn id(self) -> &'s str {
        self.variant.map_or(&self.product.id, |variant| &variant.id)
    }

    /// The price, which is the lowest one for a master.
    pub(crate) fn price(self) -> f64 {
        self.prices().fold(f64::INFINITY, f64::min)
    }

    pub(crate) fn price_max(self) -> f64 {
        self.prices().fold(0.0, f64::max)
    }

    fn prices(self) -> impl Iterator<Item = f64> + 's {
        let own = self.product.price;
        let of_variants = self.product.variants.iter().filter(move |variant| match self.variant {
            Some(only) => only.id == variant.id,
            None => true,
        });
        let of_product = (!self.product.is_master()).then_some(own);
        of_product.into_iter().chain(of_variants.map(move |variant| variant.price.unwrap_or(own)))
    }

    /// Masters are bought as one of their variants.
    pub(crate) fn can_be_bought(self) -> bool {
        self.variant.is_some() || !self.product.is_master()
    }
}

/// One category.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// The category id.
    pub id: String,
    /// The name.
    pub name: String,
    /// Its parent, if any.
    pub parent: Option<String>,
}

impl Seed {
    /// Reads a seed document.
    ///
    /// # Errors
    /// When the text is not TOML of this shape.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    pub(crate) fn organization(&self, id: &str) -> Option<&Organization> {
        self.organizations.iter().find(|known| known.id == id)
    }

    pub(crate) fn slas_client(&self, organization: &str, id: &str) -> Option<&SlasClient> {
        self.slas_clients.iter().find(|client| {
            client.id == id
                && (client.organizations.is_empty() || client.organizations.iter().any(|known| known == organization))
        })
    }

    pub(crate) fn account_manager_client(&self, id: &str) -> Option<&AccountManagerClient> {
        self.account_manager_clients.iter().find(|client| client.id == id)
    }

    /// The provider of that name; without a name the preferred one.
    pub(crate) fn identity_provider(&self, name: Option<&str>) -> Option<&IdentityProvider> {
        self.identity_providers.iter().find(|provider| match name {
            Some(name) => provider.name == name,
            None => provider.preferred,
        })
    }

    pub(crate) fn sku(&self, id: &str) -> Option<Sku<'_>> {
        self.products.iter().find_map(|product| {
            if product.id == id {
                return Some(Sku { product, variant: None });
            }
            let variant = product.variants.iter().find(|variant| variant.id == id)?;
            Some(Sku { product, variant: Some(variant) })
        })
    }

    /// The product or variant of that id, if it can be bought.
    pub(crate) fn sellable(&self, id: &str) -> Option<Sku<'_>> {
        self.sku(id).filter(|sku| sku.can_be_bought())
    }

    pub(crate) fn category(&self, id: &str) -> Option<&Category> {
        self.categories.iter().find(|category| category.id == id)
    }

    /// The categories directly below.
    pub(crate) fn subcategories(&self, id: &str) -> impl Iterator<Item = &Category> {
        self.categories.iter().filter(move |category| category.parent.as_deref() == Some(id))
    }

    /// The path to a category, itself included and the root left out, as the APIs write it.
    pub(crate) fn category_path(&self, category: &Category) -> Vec<&Category> {
        let mut path: Vec<&Category> = Vec::new();
        let mut next = self.category(&category.id);
        while let Some(one) = next.filter(|one| one.parent.is_some()) {
            // A seed may contain a circle.
            if path.iter().any(|known| known.id == one.id) {
                break;
            }
            path.insert(0, one);
            next = one.parent.as_deref().and_then(|parent| self.category(parent));
        }
        path
    }
}

impl Default for Seed {
    // The document is part of the program and a test reads it, so failing here is a build defect.
    #[allow(clippy::expect_used)]
    fn default() -> Self {
        Self::parse(DEFAULT_SEED).expect("the built-in seed is valid")
    }
}
