//! Cookies: those of a request, and those that a response sets (RFC 6265).
//!
//! Session cookies are tokens, or ids in place of tokens. They never go upstream, whatever path a request has.

use std::time::{Duration, UNIX_EPOCH};

use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};

/// Maximum length of the name and value of a cookie that browsers store, bytes.
pub(super) const MAX_COOKIE_BYTES: usize = 4096;
/// The prefix of cookies that no other host can set (RFC 6265bis, 4.1.3.2).
pub(super) const HOST_PREFIX: &str = "__Host-";
/// The beginnings of the names of cookies with tokens. The rest is the site.
const TOKEN_COOKIES: [&str; 6] =
    ["cc-at_", "cc-nx_", "cc-nx-g_", "idp_access_token_", "idp_refresh_token_", "id_token_"];
/// The cookie that marks a frame of Storefront Preview.
pub(super) const PREVIEW_MARKER: &str = "__Host-pwakit_preview_ctx";
/// The cookie of the session's server at Salesforce.
pub(super) const SERVER_COOKIE: &str = "dwsid";

/// The cookies of a request.
#[derive(Debug)]
pub(super) struct RequestCookies<'h>(Vec<(&'h str, &'h str)>);

/// The value of a request's cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CookieValue<'h> {
    /// The request has no such cookie, or a longer one than browsers store.
    None,
    /// The value, without surrounding quotes.
    One(&'h str),
    /// Two cookies of the name have different values: another host of the domain may have set one of them.
    Ambiguous,
}

impl<'h> RequestCookies<'h> {
    /// Reads the cookies of a request. HTTP/2 may split them into several fields.
    pub(super) fn read(headers: &'h HeaderMap) -> Self {
        let pairs = headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
        // Browsers send cookies with other characters too. They are not the gateway's.
        let texts = pairs.filter(|pair| pair.is_ascii()).filter_map(|pair| std::str::from_utf8(pair).ok());
        let pairs = texts.filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.trim(), unquoted(value.trim()))).collect())
    }

    /// Returns the value of a cookie.
    pub(super) fn get(&self, name: &str) -> CookieValue<'h> {
        let mut values = self.0.iter().filter(|(own, _)| *own == name).map(|(_, value)| *value);
        match values.next() {
            Some(value) if values.any(|other| other != value) => CookieValue::Ambiguous,
            Some(value) if name.len() + value.len() <= MAX_COOKIE_BYTES => CookieValue::One(value),
            Some(_) | None => CookieValue::None,
        }
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}

/// What becomes of the `Cookie` fields of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CookieEdit {
    /// They stay.
    Keep,
    /// They are removed.
    Remove,
    /// This field replaces them.
    Set(HeaderValue),
}

/// Removes session cookies from the cookies of a request. Other cookies keep their bytes, in one field.
pub(super) fn without_session_cookies(headers: &HeaderMap, strips_server_cookie: bool) -> CookieEdit {
    let mut fields = headers.get_all(COOKIE).iter();
    let Some(first) = fields.next() else { return CookieEdit::Keep };
    let is_split = fields.next().is_some();
    let is_removed = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        is_session_cookie(name) || strips_server_cookie && name == SERVER_COOKIE.as_bytes()
    };
    let pairs = || headers.get_all(COOKIE).iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b';'));
    if !is_split && !first.as_bytes().split(|byte| *byte == b';').any(|pair| is_removed(&pair)) {
        return CookieEdit::Keep;
    }
    let kept: Vec<&[u8]> =
        pairs().filter(|pair| !is_removed(pair)).map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).collect();
    match HeaderValue::from_bytes(&kept.join(&b"; "[..])) {
        Ok(rest) if !kept.is_empty() => CookieEdit::Set(rest),
        Ok(_) | Err(_) => CookieEdit::Remove,
    }
}

/// Whether a cookie has a token, or an id in its place, of any site. `customer_id` and the like are no credentials.
fn is_session_cookie(name: &[u8]) -> bool {
    let bare = name.strip_prefix(HOST_PREFIX.as_bytes()).unwrap_or(name);
    TOKEN_COOKIES.iter().any(|token| bare.starts_with(token.as_bytes())) || name == PREVIEW_MARKER.as_bytes()
}

/// How browsers restrict a cookie to requests from pages of the same site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SiteAttributes {
    /// `SameSite=lax`.
    Lax,
    /// `SameSite=none; Partitioned`: the page is in a frame of a trusted parent.
    Preview,
}

/// A cookie to set.
#[derive(Debug, Clone, Copy)]
pub(super) struct SetCookie<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a str,
    /// When it expires, seconds since 1970.
    pub(super) expires_at: u64,
    pub(super) domain: Option<&'a str>,
    pub(super) is_http_only: bool,
    pub(super) attributes: SiteAttributes,
}

impl SetCookie<'_> {
    /// The value of `Set-Cookie`, with the attributes in the order of PWA Kit's runtime. `None` if the value has a byte that no
    /// cookie may have (RFC 6265, 4.1.1).
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let Self { name, value, expires_at, domain, is_http_only, attributes } = self;
        if !value.bytes().all(is_cookie_octet) {
            return None;
        }
        // The last second that the format has is that of the year 9999.
        let expires = UNIX_EPOCH + Duration::from_secs((*expires_at).min(253_402_300_799));
        let mut text = format!("{name}={value}; Path=/; Expires={}", httpdate::fmt_http_date(expires));
        if let Some(domain) = domain {
            text.push_str("; Domain=");
            text.push_str(domain);
        }
        text.push_str("; Secure");
        if *is_http_only {
            text.push_str("; HttpOnly");
        }
        text.push_str(match attributes {
            SiteAttributes::Lax => "; SameSite=lax",
            SiteAttributes::Preview => "; SameSite=none; Partitioned",
        });
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

fn is_cookie_octet(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e)
}

/// Returns the cookies that Salesforce sets, for the storefront's domain instead of Salesforce's own; `None`: for its host alone.
pub fn localize(headers: &HeaderMap, domain: Option<&str>) -> Vec<HeaderValue> {
    let cookies = headers.get_all(SET_COOKIE).iter();
    cookies.filter_map(|cookie| localized(cookie.to_str().ok()?, domain)).collect()
}

fn localized(cookie: &str, domain: Option<&str>) -> Option<HeaderValue> {
    let is_domain =
        |attribute: &&str| attribute.split('=').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("domain"));
    let mut parts: Vec<String> =
        cookie.split(';').filter(|attribute| !is_domain(attribute)).map(|part| part.trim().to_owned()).collect();
    parts.extend(domain.map(|domain| format!("Domain={domain}")));
    HeaderValue::from_str(&parts.join("; ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(COOKIE, field.parse().unwrap());
        }
        headers
    }

    #[test]
    fn cookies_are_read_from_all_fields() {
        let headers = headers(&["a=1; b=\"2\";c = 3", "d=4==; e; f="]);
        let cookies = RequestCookies::read(&headers);
        for (name, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4=="), ("f", "")] {
            assert_eq!(cookies.get(name), CookieValue::One(value), "{name}");
        }
        assert_eq!(cookies.get("e"), CookieValue::None);
        assert_eq!(cookies.get("A"), CookieValue::None, "names are case-sensitive");
    }

    #[test]
    fn two_values_of_one_name_are_ambiguous() {
        let headers = headers(&["a=1; b=1; a=2", "b=1"]);
        let cookies = RequestCookies::read(&headers);
        assert_eq!(cookies.get("a"), CookieValue::Ambiguous);
        assert_eq!(cookies.get("b"), CookieValue::One("1"));
    }

    #[test]
    fn cookie_over_4_kb_counts_as_none() {
        let value = "a".repeat(MAX_COOKIE_BYTES - 1);
        let longest = headers(&[&format!("a={value}")]);
        assert_eq!(RequestCookies::read(&longest).get("a"), CookieValue::One(value.as_str()));
        let longer = headers(&[&format!("a={value}a")]);
        assert_eq!(RequestCookies::read(&longer).get("a"), CookieValue::None);
    }

    #[test]
    fn session_cookies_of_every_site_are_removed() {
        let edit = |fields: &[&str], server| without_session_cookies(&headers(fields), server);
        let set = |text: &str| CookieEdit::Set(text.parse().unwrap());
        for name in [
            "cc-at_RefArch",
            "cc-nx_RefArch",
            "cc-nx-g_Other",
            "idp_access_token_a",
            "idp_refresh_token_a",
            "id_token_a",
            "__Host-cc-at_RefArch",
            "__Host-cc-nx-g_RefArch",
            "__Host-pwakit_preview_ctx",
        ] {
            assert_eq!(edit(&[&format!("{name}=secret")], false), CookieEdit::Remove, "{name}");
            assert_eq!(edit(&[&format!("a=1; {name}=secret;b=2")], false), set("a=1; b=2"), "{name}");
            assert_eq!(edit(&["a=1", &format!("{name} =secret")], false), set("a=1"), "{name}");
        }
        assert_eq!(edit(&["a=1;  cc-at-expires_RefArch=2; usid_RefArch=3"], false), CookieEdit::Keep);
        assert_eq!(edit(&["dwsid=1; a=1"], false), CookieEdit::Keep);
        assert_eq!(edit(&["dwsid=1; a=1"], true), set("a=1"));
        assert_eq!(edit(&["a=1", "b=2"], false), set("a=1; b=2"), "HTTP/1.1 has one field");
        assert_eq!(edit(&[], true), CookieEdit::Keep);
    }

    #[test]
    fn attributes_are_in_the_order_of_pwa_kit() {
        let cookie = SetCookie {
            name: "cc-at_RefArch",
            value: "a.b.c",
            expires_at: 1_540_339_220,
            domain: Some(".shop.example"),
            is_http_only: true,
            attributes: SiteAttributes::Lax,
        };
        assert_eq!(
            cookie.header().unwrap(),
            "cc-at_RefArch=a.b.c; Path=/; Expires=Wed, 24 Oct 2018 00:00:20 GMT; Domain=.shop.example; Secure; HttpOnly; SameSite=lax"
        );
        let preview = SetCookie { domain: None, is_http_only: false, attributes: SiteAttributes::Preview, ..cookie };
        assert_eq!(
            preview.header().unwrap(),
            "cc-at_RefArch=a.b.c; Path=/; Expires=Wed, 24 Oct 2018 00:00:20 GMT; Secure; SameSite=none; Partitioned"
        );
        for value in ["a;b", "a b", "a\"b", "a,b", "a\\b", "ä"] {
            assert_eq!(SetCookie { value, ..cookie }.header(), None, "{value}");
        }
    }

    #[test]
    fn cookie_of_salesforce_gets_the_domain_of_the_storefront() {
        let cookie = "dwsid=abc; Path=/; Domain=.salesforce.example; Secure; HttpOnly; SameSite=None";
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, cookie.parse().unwrap());
        assert_eq!(localize(&headers, None), ["dwsid=abc; Path=/; Secure; HttpOnly; SameSite=None"]);
        let of_shop = "dwsid=abc; Path=/; Secure; HttpOnly; SameSite=None; Domain=shop.example";
        assert_eq!(localize(&headers, Some("shop.example")), [of_shop]);
    }
}
