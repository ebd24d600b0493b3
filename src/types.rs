//! Validated identifiers: organizations, sites, clients, shoppers, scopes.
//!
//! Values are made by [`FromStr`] only, so a value is valid. The patterns are strict, because each value may become part of a
//! URL, a header or a metric label.

use std::{borrow::Borrow, collections::HashMap, fmt, str::FromStr, sync::Arc};

/// A map by organization. Its hash function is fast and not collision resistant: keys come from the configuration only, and each
/// request looks into about ten of these maps.
pub type ByOrganization<V> = HashMap<OrganizationId, V, foldhash::fast::RandomState>;

/// An invalid identifier. The error has the expected form, and never the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a valid {kind}: expected {expected}")]
pub struct InvalidIdentifier {
    /// The kind of identifier.
    pub kind: &'static str,
    /// The expected form, with an example.
    pub expected: &'static str,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $expected:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidIdentifier;

            fn from_str(text: &str) -> Result<Self, InvalidIdentifier> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(Arc::from(text)))
                } else {
                    Err(InvalidIdentifier { kind: $kind, expected: $expected })
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

identifier! {
    /// An organization of B2C Commerce, e.g. `f_ecom_zzrf_001`: `f_ecom_`, realm and instance.
    OrganizationId, "organization id", "f_ecom_{realm}_{instance}, e.g. f_ecom_zzrf_001",
    |text| text.strip_prefix("f_ecom_").is_some_and(is_tenant_id)
}

identifier! {
    /// A tenant: realm and instance, e.g. `zzrf_001`. The organization without its `f_ecom_`.
    TenantId, "tenant id", "{realm}_{instance}, e.g. zzrf_001",
    is_tenant_id
}

identifier! {
    /// A site, e.g. `RefArch`. SLAS calls it a channel.
    SiteId, "site id", "1 to 32 letters, digits, '-' or '_', e.g. RefArch",
    |text| (1..=32).contains(&text.len()) && text.bytes().all(is_identifier_byte)
}

identifier! {
    /// A client id of SLAS or of Account Manager, usually a UUID.
    ClientId, "client id", "1 to 64 letters, digits, '-' or '_', e.g. 11111111-1111-4111-8111-111111111111",
    |text| (1..=64).contains(&text.len()) && text.bytes().all(is_identifier_byte)
}

identifier! {
    /// A unique shopper id (USID): SLAS's id of a shopper across logins.
    Usid, "usid", "1 to 128 letters, digits, '-' or '_'",
    |text| (1..=128).contains(&text.len()) && text.bytes().all(is_identifier_byte)
}

identifier! {
    /// A customer id, registered (`rcid`) or guest (`gcid`).
    CustomerId, "customer id", "1 to 100 letters, digits, '-' or '_'",
    |text| (1..=100).contains(&text.len()) && text.bytes().all(is_identifier_byte)
}

identifier! {
    /// One OAuth 2 scope (RFC 6749, 3.3), e.g. `sfcc.shopper-products`.
    Scope, "scope", "1 to 128 visible characters without quote and backslash, e.g. sfcc.shopper-products",
    |text| {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\' && byte != b',')
    }
}

/// Prefix of the scope that ties an Account Manager token to a tenant.
pub const TENANT_SCOPE_PREFIX: &str = "SALESFORCE_COMMERCE_API:";

impl OrganizationId {
    /// The organization of a tenant.
    #[must_use]
    pub fn from_tenant(tenant: &TenantId) -> Self {
        Self(Arc::from(format!("f_ecom_{tenant}")))
    }

    /// Whether the organization is a production instance: its instance is `prd`.
    #[must_use]
    pub fn is_production(&self) -> bool {
        self.0.ends_with("_prd")
    }

    /// The tenant: the part after `f_ecom_`.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        TenantId(Arc::from(&self.0["f_ecom_".len()..]))
    }
}

/// A list of scopes. An operation requires any one of its scopes. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Arc<[Scope]>);

impl Scopes {
    /// The scopes in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Scope> {
        self.0.iter()
    }

    /// Whether the list is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the list has this scope.
    #[must_use]
    pub fn contains(&self, scope: &str) -> bool {
        self.0.iter().any(|own| own.as_str() == scope)
    }

    /// Whether the two lists share a scope.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.0.iter().any(|scope| other.contains(scope.as_str()))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

impl FromStr for Scopes {
    type Err = InvalidIdentifier;

    /// Reads scopes separated by spaces or, as some issuers write them, by commas.
    fn from_str(text: &str) -> Result<Self, InvalidIdentifier> {
        text.split([' ', ',']).filter(|part| !part.is_empty()).map(str::parse).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, scope) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(" ")?;
            }
            f.write_str(scope.as_str())?;
        }
        Ok(())
    }
}

fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn is_tenant_id(text: &str) -> bool {
    let Some((realm, instance)) = text.split_once('_') else { return false };
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    realm.len() == 4 && instance.len() == 3 && plain(realm) && plain(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn organization_id_contains_its_tenant_id() {
        let organization: OrganizationId = "f_ecom_zzrf_001".parse().unwrap();
        assert_eq!(organization.tenant().as_str(), "zzrf_001");
        assert_eq!(OrganizationId::from_tenant(&organization.tenant()), organization);
    }

    #[test]
    fn identifiers_reject_characters_that_change_a_url() {
        for text in [
            "",
            "f_ecom_zzrf_001/..",
            "f_ecom_ZZRF_001",
            "f_ecom_zzrf",
            "zzrf_001",
            "f_ecom_zzrf_0011",
            "f_ecom_zz%66_001",
        ] {
            assert!(text.parse::<OrganizationId>().is_err(), "{text:?}");
        }
        for text in ["", "Ref Arch", "RefArch\r\n", "../RefArch", "RefArch,Other", &"a".repeat(33)] {
            assert!(text.parse::<SiteId>().is_err(), "{text:?}");
        }
        for text in ["", "a:b", "a b", "a\"", &"a".repeat(65)] {
            assert!(text.parse::<ClientId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn scopes_are_separated_by_spaces_or_commas() {
        let scopes: Scopes = "sfcc.a  sfcc.b,sfcc.c".parse().unwrap();
        assert_eq!(scopes.to_string(), "sfcc.a sfcc.b sfcc.c");
        assert!(scopes.contains("sfcc.b") && !scopes.contains("sfcc"));
        assert!(scopes.intersects(&"sfcc.x sfcc.c".parse().unwrap()));
        assert!(!scopes.intersects(&Scopes::default()));
    }
}
