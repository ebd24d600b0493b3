//! The shopper token: the claims that SLAS writes, and their parsing.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::seed::tenant_of;

/// The content of a shopper token to mint. The default is a guest of the public client.
/// Tests can override every claim and header member; `null` removes it.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShopperTokenSpec {
    /// The organization whose tenant issues the token.
    pub organization: String,
    /// The SLAS client id.
    pub client_id: String,
    /// The site, `chid`.
    pub site: String,
    /// The session id; a new one when absent.
    pub usid: Option<String>,
    /// `uido`: `slas`, `ecom`, `google`, …
    pub origin: String,
    /// `upn`: the login id, or `Guest`.
    pub login: String,
    /// `uidn`: the display name, unescaped.
    pub display_name: String,
    /// `gcid`; a new one when absent.
    pub guest_customer_id: Option<String>,
    /// `rcid`, of a registered shopper.
    pub registered_customer_id: Option<String>,
    /// Flow marks, for example `("tsob", "ts_ext_on_behalf_of")`.
    pub marks: Vec<(String, String)>,
    /// Scopes; those of the client when absent.
    pub scopes: Option<Vec<String>>,
    /// Seconds until expiry; negative makes an expired token. The configured lifetime when absent.
    pub lifetime_seconds: Option<i64>,
    /// The key id in the header; the current one when absent. The key of that id signs, or the
    /// current key if the ring has no key of that id.
    pub kid: Option<String>,
    /// The `dnt` claim.
    pub do_not_track: Option<bool>,
    /// More or other header members.
    pub header: Map<String, Value>,
    /// More or other claims.
    pub claims: Map<String, Value>,
}

impl Default for ShopperTokenSpec {
    fn default() -> Self {
        Self {
            organization: "f_ecom_zzrf_001".into(),
            client_id: "11111111-1111-4111-8111-111111111111".into(),
            site: "RefArch".into(),
            usid: None,
            origin: "slas".into(),
            login: "Guest".into(),
            display_name: "Guest User".into(),
            guest_customer_id: None,
            registered_customer_id: None,
            marks: Vec::new(),
            scopes: None,
            lifetime_seconds: None,
            kid: None,
            do_not_track: None,
            header: Map::new(),
            claims: Map::new(),
        }
    }
}

/// The values of the claims.
pub(crate) struct Claims<'a> {
    pub(crate) organization: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) usid: &'a str,
    pub(crate) isb: &'a str,
    pub(crate) scopes: &'a [String],
    pub(crate) lifetime_seconds: i64,
    /// The issuer's time, seconds since 1970.
    pub(crate) now: i64,
    /// Microseconds, unique for each token; becomes the `jti`.
    pub(crate) serial: u64,
    pub(crate) do_not_track: Option<bool>,
}

impl Claims<'_> {
    pub(crate) fn document(&self) -> Map<String, Value> {
        let tenant = tenant_of(self.organization);
        let now = self.now;
        // An expired token was issued one usual lifetime before its expiry.
        let issued = if self.lifetime_seconds > 0 { now } else { now + self.lifetime_seconds - 1800 };
        let mut claims = Map::new();
        claims.insert("aut".into(), "GUID".into());
        claims.insert("scp".into(), self.scopes.join(" ").into());
        claims.insert("sub".into(), format!("cc-slas::{tenant}::scid:{}::usid:{}", self.client_id, self.usid).into());
        claims.insert("ctx".into(), "slas".into());
        claims.insert("iss".into(), format!("slas/prod/{tenant}").into());
        claims.insert("ist".into(), 1.into());
        if let Some(choice) = self.do_not_track {
            claims.insert("dnt".into(), if choice { "1" } else { "0" }.into());
        }
        claims.insert("aud".into(), format!("commercecloud/prod/{tenant}").into());
        claims.insert("nbf".into(), (issued - 30).into());
        claims.insert("sty".into(), "User".into());
        claims.insert("isb".into(), self.isb.into());
        claims.insert("exp".into(), now.saturating_add(self.lifetime_seconds).into());
        claims.insert("iat".into(), issued.into());
        claims.insert("jti".into(), format!("C2C{:020}", self.serial).into());
        claims
    }
}

/// The header SLAS writes.
pub(crate) fn header(organization: &str, kid: &str) -> Map<String, Value> {
    let document = json!({
        "ver": "1.0", "jku": format!("slas/prod/{}", tenant_of(organization)),
        "kid": kid, "typ": "jwt", "clv": "J2.3.4", "alg": "ES256",
    });
    match document {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// The issuer subject, which identifies the shopper. Without a site SLAS writes a space. `None` when longer than 256
/// characters.
pub(crate) fn issuer_subject(identity: &Identity, marks: &[(String, String)], site: Option<&str>) -> Option<String> {
    let mut pairs = vec![
        format!("uido:{}", identity.origin),
        format!("upn:{}", identity.login),
        format!("uidn:{}", identity.display_name.replace(':', "%3A")),
        format!("gcid:{}", identity.guest_customer_id),
    ];
    if let Some(registered) = &identity.registered_customer_id {
        pairs.push(format!("rcid:{registered}"));
    }
    pairs.extend(marks.iter().map(|(name, value)| format!("{name}:{value}")));
    pairs.push(format!("chid:{}", site.unwrap_or(" ")));
    let subject = pairs.join("::");
    (subject.chars().count() <= 256).then_some(subject)
}

/// The shopper of a session.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) origin: String,
    pub(crate) login: String,
    pub(crate) display_name: String,
    pub(crate) guest_customer_id: String,
    pub(crate) registered_customer_id: Option<String>,
}

impl Identity {
    pub(crate) fn guest(guest_customer_id: String) -> Self {
        Self {
            origin: "slas".into(),
            login: "Guest".into(),
            display_name: "Guest User".into(),
            guest_customer_id,
            registered_customer_id: None,
        }
    }

    /// The customer id in the APIs.
    pub(crate) fn customer_id(&self) -> &str {
        self.registered_customer_id.as_deref().unwrap_or(&self.guest_customer_id)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.registered_customer_id.is_some()
    }
}

/// The parsed claims of a verified shopper token.
#[derive(Clone, Debug)]
pub(crate) struct ShopperToken {
    pub(crate) tenant: String,
    pub(crate) client_id: String,
    pub(crate) usid: String,
    pub(crate) identity: Identity,
    pub(crate) marks: Vec<(String, String)>,
    pub(crate) site: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) jti: String,
    /// The time of issue in microseconds, from the `jti`.
    pub(crate) serial: Option<u64>,
    pub(crate) claims: Map<String, Value>,
}

impl ShopperToken {
    /// Reads verified claims. `None` when one that SLAS always writes is missing.
    pub(crate) fn read(claims: Map<String, Value>) -> Option<Self> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str);
        let tenant = text("iss")?.strip_prefix("slas/prod/")?.to_owned();
        let audience = Value::from(format!("commercecloud/prod/{tenant}"));
        let is_for_commerce_cloud = match claims.get("aud")? {
            Value::Array(list) => list.contains(&audience),
            one => *one == audience,
        };
        if !is_for_commerce_cloud {
            return None;
        }
        let subject: Vec<_> = text("sub")?.split("::").collect();
        let of_subject = |name: &str| {
            let mut pairs = subject.iter().filter_map(|part| part.split_once(':'));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let mut isb = Map::new();
        let mut marks = Vec::new();
        for (key, value) in text("isb")?.split("::").filter_map(|pair| pair.split_once(':')) {
            match key {
                "uido" | "upn" | "uidn" | "gcid" | "rcid" | "chid" => {
                    isb.insert(key.to_owned(), value.into());
                }
                _ => marks.push((key.to_owned(), value.to_owned())),
            }
        }
        let of_isb = |name: &str| isb.get(name).and_then(Value::as_str).map(str::to_owned);
        let jti = text("jti").unwrap_or_default().to_owned();
        Some(Self {
            client_id: of_subject("scid")?,
            usid: of_subject("usid")?,
            identity: Identity {
                origin: of_isb("uido")?,
                login: of_isb("upn")?,
                display_name: of_isb("uidn").unwrap_or_default().replace("%3A", ":"),
                guest_customer_id: of_isb("gcid").unwrap_or_default(),
                registered_customer_id: of_isb("rcid"),
            },
            site: of_isb("chid").filter(|site| !site.trim().is_empty()),
            marks,
            scopes: text("scp")?.split([' ', ',']).filter(|scope| !scope.is_empty()).map(str::to_owned).collect(),
            serial: jti.strip_prefix("C2C").and_then(|digits| digits.parse().ok()),
            jti,
            tenant,
            claims,
        })
    }

    pub(crate) fn has_mark(&self, name: &str) -> bool {
        self.marks.iter().any(|(mark, _)| mark == name)
    }

    pub(crate) fn may(&self, scopes: &[&str]) -> bool {
        self.scopes.iter().any(|scope| scopes.contains(&scope.as_str()))
    }
}
