//! The fields of a client's request that never reach Salesforce.
//!
//! They are of four kinds: what proxies, CDNs and TLS terminators tell an application about who is asking and from where;
//! what names another method than the request's; what Salesforce's own parts tell each other (`sfdc_…`); and what the gateway
//! alone may say. A client's own would be a lie that some server behind the gateway believes. A field that Salesforce
//! documents for callers is none of these. Names are compared with `_` read as `-`, as many servers do; HTTP libraries hand
//! them over in lower case.

/// Whole names that only proxies in front of an application may set, or only the gateway.
const NAMES: [&str; 11] = [
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
    "x-host",
    "x-scheme",
    "x-url-scheme",
    "front-end-https",
    "proxy",
    "proxy-authorization",
    // A SLAS client's proof beside another credential: the gateway's alone to add.
    "x-slas-client-auth",
    "-sfdc-client-auth",
];

/// How names begin that belong to the gateway, or to a CDN, cloud or server that writes what it knows of its client.
const BEGINNINGS: [&str; 23] = [
    "x-on-behalf-of",
    "x-shopper-gateway-",
    "cf-",
    "cloudfront-",
    "fastly-",
    "akamai-",
    "x-akamai-",
    "fly-",
    "incap-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-appengine-",
    "x-arr-",
    "x-azure-",
    "x-consumer-",
    "x-envoy-",
    "x-goog-",
    "x-nf-",
    "x-vercel-",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-pomerium-",
    "wl-proxy-",
];

/// Fields of Salesforce's own family that it documents for callers, or that its SDKs send: the session's server, a verbose log,
/// the name of the SDK, and a refresh token that a storefront's server keeps in a cookie.
const SALESFORCE_FOR_CALLERS: [&str; 4] = ["sfdc_dwsid", "sfdc_verbose", "sfdc_user_agent", "sfdc_refresh_token"];

/// Parts of the names of fields by which a server takes another method than the request's: `X-HTTP-Method-Override`, and
/// OCAPI's `x-dw-http-method-override`. The policy decides by the method of the request. CORS needs
/// `Access-Control-Request-Method`, which has none of these parts.
const METHOD_OVERRIDES: [&str; 5] = ["method-override", "http-method", "http-verb", "rest-method", "tunneled-method"];

/// Whether a client's field of this name stays here.
pub(super) fn is_never_from_clients(name: &str) -> bool {
    if is_of_plain_http(name) {
        return false;
    }
    NAMES.iter().any(|never| is_twin_of(name, never))
        || BEGINNINGS.iter().any(|beginning| starts_like(name, beginning))
        || is_internal_to_salesforce(name)
        || says_who_asks(name)
        || overrides_method(name)
}

/// Whether it is a field that nearly every request has. All others are looked at word by word.
fn is_of_plain_http(name: &str) -> bool {
    matches!(
        name,
        "accept"
            | "accept-encoding"
            | "accept-language"
            | "authorization"
            | "connection"
            | "content-length"
            | "content-type"
            | "cookie"
            | "correlation-id"
            | "host"
            | "origin"
            | "referer"
            | "user-agent"
    )
}

/// Whether a name has words by which proxies, CDNs and TLS terminators say who asks and from where: an address
/// (`True-Client-IP`), a certificate (`SSL-Client-Cert`), or a user (`Remote-User`).
fn says_who_asks(name: &str) -> bool {
    let mut before = "";
    name.split(is_separator).any(|word| {
        let found = matches!(
            (before, word),
            (_, "forwarded" | "forwardedfor" | "clientip" | "realip" | "socketip" | "clientcert" | "mtls")
                | (_, "remoteaddr" | "remoteip" | "remoteuser" | "userinfo" | "oidc")
                | ("client", "ip" | "ipv6" | "addr" | "address" | "principal")
                | ("client" | "peer", "cert" | "certificate" | "verify" | "subject" | "dn" | "cn" | "s")
                | ("peer", "addr" | "address")
                | ("forward", "for")
                | ("original" | "rewrite", "uri" | "url" | "ip" | "host")
                | ("proxy", "host")
                | ("connecting", "ip" | "ipv6")
                | ("real" | "true" | "source" | "src" | "originating" | "user" | "proxyuser" | "peer", "ip")
                | ("remote", "ip" | "addr" | "address" | "user")
                | ("ssl" | "tls", _)
                | ("authenticated", "user" | "userid" | "email" | "groups")
                | ("auth", "user" | "request")
                | ("webauth", "user")
                | ("host", "override")
        );
        before = word;
        found
    })
}

/// Whether a field is of Salesforce's own family, `sfdc_…` and `x-sfdc-…` in any spelling, and not for callers.
fn is_internal_to_salesforce(name: &str) -> bool {
    let first = name.split(is_separator).find(|word| !word.is_empty() && *word != "x");
    matches!(first, Some("sfdc" | "xsfdc")) && !SALESFORCE_FOR_CALLERS.contains(&name)
}

/// Whether a server might read another method in this field. Most names are told from these by not naming a method at all.
fn overrides_method(name: &str) -> bool {
    let names_method = |name: &str| name.contains("method") || name.contains("verb");
    names_method(name)
        && METHOD_OVERRIDES.iter().any(|part| {
            let mut starts = 0..=name.len().saturating_sub(part.len());
            starts.any(|start| name.get(start..).is_some_and(|rest| starts_like(rest, part)))
        })
}

/// Whether two field names are one to a server that reads `_` as `-`. Names are lower case here.
pub(in crate::gateway) fn is_twin_of(name: &str, other: &str) -> bool {
    name.len() == other.len() && starts_like(name, other)
}

/// Whether a field's name begins so, to a server that reads `_` as `-`.
pub(in crate::gateway) fn starts_like(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(own, wanted)| own == wanted || (wanted == b'-' && is_separator(char::from(own))))
}

/// Whether a server may read a character of a field's name as `-`: CGI makes `_` of all of them.
fn is_separator(character: char) -> bool {
    !character.is_ascii_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each in the spelling that its inventor uses; and with every `-` as `_`, and the other way round.
    #[test]
    fn claim_of_a_client_about_itself_is_stripped_in_any_spelling() {
        for name in [
            "cf-connecting-ip",
            "cf-connecting-ipv6",
            "cf-pseudo-ipv4",
            "cf-ipcountry",
            "cf-access-authenticated-user-email",
            "true-client-ip",
            "x-ssl-cert",
            "ssl-cert",
            "x-ssl-subject",
            "x-client-cn",
            "x-client-s-dn",
            "x-client-addr",
            "x-client-address",
            "x-peer-cert",
            "x-peer-address",
            "x-remoteaddr",
            "remoteuser",
            "x-original-ip",
            "x-forward-for",
            "x-forwardedfor",
            "x-original-uri",
            "x-rewrite-uri",
            "x-proxy-host",
            "xsfdc-user",
            "oidc-claim-sub",
            "x-ms-token-aad-id-token",
            "x-pomerium-claim-email",
            "x-userinfo",
            "fastly-client-ip",
            "fastly-client",
            "x-client-ip",
            "x-cluster-client-ip",
            "client-ip",
            "x-real-ip",
            "x-realip",
            "x-azure-clientip",
            "x-azure-socketip",
            "x-appengine-user-ip",
            "x-akamai-edgescape",
            "cloudfront-viewer-address",
            "fly-client-ip",
            "x-nf-client-connection-ip",
            "x-vercel-forwarded-for",
            "x-original-forwarded-for",
            "do-connecting-ip",
            "x-envoy-external-address",
            "x-originating-ip",
            "x-remote-ip",
            "x-remote-addr",
            "remote_addr",
            "wl-proxy-client-ip",
            "proxy-client-ip",
            "x-proxyuser-ip",
            "forwarded",
            "x-forwarded",
            "forwarded-for",
            "x-forwarded-for",
            "x-forwarded-client-cert",
            "x-forwarded-user",
            "ssl-client-cert",
            "ssl_client_verify",
            "ssl_client_s_dn",
            "x-ssl-client-cert",
            "x-ssl-client-dn",
            "x-tls-client-subject",
            "client-cert",
            "client-cert-chain",
            "x-client-cert",
            "x-client-verify",
            "x-arr-clientcert",
            "x-amzn-mtls-clientcert-subject",
            "x-amzn-oidc-identity",
            "x-goog-authenticated-user-email",
            "x-ms-client-principal-id",
            "remote-user",
            "x-remote-user",
            "x-authenticated-user",
            "x-auth-request-email",
            "x-webauth-user",
            "x-consumer-username",
            "x-http-host-override",
            "x-original-url",
            "front-end-https",
            "sfdc_user_id",
            "sfdc_customer_id",
            "sfdc_client_id",
            "sfdc_client_ip",
            "sfdc_tenant_id",
            "sfdc_site_id",
            "sfdc_internal",
            "x-sfdc-user",
            "_sfdc_client_auth",
            "sfdc",
        ] {
            let dotted = name.replace(['-', '_'], ".");
            for name in
                [name.to_owned(), name.replace('-', "_"), name.replace('_', "-"), dotted, name.replace('-', "!")]
            {
                assert!(is_never_from_clients(&name), "{name}");
            }
        }
        // Only the documented spelling is documented.
        for name in ["sfdc-dwsid", "sfdc-verbose", "x_sfdc_dwsid", "sfdc_dwsid2"] {
            assert!(is_never_from_clients(name), "{name}");
        }
    }

    #[test]
    fn field_for_salesforce_or_of_plain_http_passes() {
        for name in [
            "accept",
            "accept-language",
            "authorization",
            "cdn-loop",
            "content-type",
            "cookie",
            "correlation-id",
            "etag",
            "from",
            "if-match",
            "origin",
            "referer",
            "sfdc_dwsid",
            "sfdc_verbose",
            "sfdc_refresh_token",
            "sfdc_user_agent",
            "traceparent",
            "user-agent",
            "via",
            "x-client-id",
            "x-correlation-id",
            "x-dw-client-id",
            "x-mobify",
            "x-request-id",
            "x-requested-with",
            "x-shipping-zip",
            "x-site-id",
            "x-user-agent",
        ] {
            assert!(!is_never_from_clients(name), "{name}");
        }
    }
}
