//! The header fields that a client may not send. The gateway removes them, because a server behind it could believe them.
//!
//! There are four kinds: fields in which proxies, CDNs and TLS terminators describe the client; fields that name another
//! method; fields between Salesforce's own services (`sfdc_…`); and fields that only the gateway may set. Fields that
//! Salesforce documents for clients are sent upstream.

use crate::gateway::field_names::{eq_ignoring_separator, is_separator, starts_with_ignoring_separator};

/// Names of fields that only the gateway, or a proxy in front of an application, may set.
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
    // A SLAS client's authentication beside another credential: only the gateway may add it.
    "x-slas-client-auth",
    "-sfdc-client-auth",
];

/// Prefixes of fields of the gateway, and of CDNs, clouds and servers that describe their client.
const PREFIXES: [&str; 23] = [
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

/// The fields `sfdc_…` that Salesforce documents for clients, or that its SDKs send: the session's server, a verbose log, the
/// name of the SDK, and a refresh token that a storefront's server keeps in a cookie.
const SALESFORCE_CLIENT_FIELDS: [&str; 4] = ["sfdc_dwsid", "sfdc_verbose", "sfdc_user_agent", "sfdc_refresh_token"];

/// Parts of the names of fields that override the request's method: `X-HTTP-Method-Override`, and OCAPI's
/// `x-dw-http-method-override`. The policy decides by the request's own method. `Access-Control-Request-Method`, which CORS
/// needs, has none of these parts.
const METHOD_OVERRIDES: [&str; 5] = ["method-override", "http-method", "http-verb", "rest-method", "tunneled-method"];

/// Whether a client may not send a field of this name.
pub(super) fn is_forbidden(name: &str) -> bool {
    if is_common(name) {
        return false;
    }
    NAMES.iter().any(|forbidden| eq_ignoring_separator(name, forbidden))
        || PREFIXES.iter().any(|prefix| starts_with_ignoring_separator(name, prefix))
        || is_internal_to_salesforce(name)
        || describes_client(name)
        || overrides_method(name)
}

/// Whether the field is one that nearly every request has. This saves the check of each word.
fn is_common(name: &str) -> bool {
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

/// Whether a name has words with which proxies, CDNs and TLS terminators describe the client: an address (`True-Client-IP`), a
/// certificate (`SSL-Client-Cert`), or a user (`Remote-User`).
fn describes_client(name: &str) -> bool {
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

/// Whether a field is between Salesforce's services: `sfdc_…` or `x-sfdc-…` in any spelling, and not for clients.
fn is_internal_to_salesforce(name: &str) -> bool {
    let first = name.split(is_separator).find(|word| !word.is_empty() && *word != "x");
    matches!(first, Some("sfdc" | "xsfdc")) && !SALESFORCE_CLIENT_FIELDS.contains(&name)
}

/// Whether a server could read another method from this field.
fn overrides_method(name: &str) -> bool {
    // The cheap test excludes nearly all names.
    (name.contains("method") || name.contains("verb"))
        && METHOD_OVERRIDES.iter().any(|part| {
            let mut starts = 0..=name.len().saturating_sub(part.len());
            starts.any(|start| name.get(start..).is_some_and(|rest| starts_with_ignoring_separator(rest, part)))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each name in its original spelling, and with other separators.
    #[test]
    fn field_that_describes_the_client_is_forbidden_in_any_spelling() {
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
                assert!(is_forbidden(&name), "{name}");
            }
        }
        // Salesforce documents another spelling of these.
        for name in ["sfdc-dwsid", "sfdc-verbose", "x_sfdc_dwsid", "sfdc_dwsid2"] {
            assert!(is_forbidden(name), "{name}");
        }
    }

    #[test]
    fn field_of_http_or_documented_by_salesforce_is_allowed() {
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
            assert!(!is_forbidden(name), "{name}");
        }
    }
}
