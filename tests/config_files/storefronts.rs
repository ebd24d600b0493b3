//! `[[tenants.storefronts]]`: storefronts whose sessions are in cookies.

use std::time::Duration;

use shopper_gateway::config::{CookieMode, Storefront};

use super::{MINIMAL, errors, load};

/// The network of the storefronts' servers.
const SERVERS: &str = "[[limits.networks]]\nnetwork = '10.0.0.0/8'\nstorefront_server = true\n";

/// A configuration with two sites, a public client `c1`, the storefronts' servers, and these tables of `[[tenants.storefronts]]`.
fn with_storefront(table: &str) -> String {
    let tenant = MINIMAL.replace(r#"["RefArch"]"#, r#"["RefArch", "RefArchGlobal"]"#);
    let client = "[[tenants.slas_clients]]\nclient_id = 'c1'\nredirect_uri = 'http://localhost:3000/callback'\n";
    format!("{tenant}{client}[[tenants.storefronts]]\n{table}\n{SERVERS}")
}

/// The same with the required keys.
fn with_keys(keys: &str) -> String {
    with_storefront(&format!("site = 'RefArch'\nclient_id = 'c1'\n{keys}"))
}

fn only(text: &str) -> Storefront {
    let storefronts =
        load(text, &[]).unwrap_or_else(|errors| panic!("{errors}")).settings.tenants[0].storefronts.clone();
    let [storefront] = storefronts.as_slice() else { panic!("{storefronts:?}") };
    storefront.clone()
}

fn warned(text: &str) -> Vec<String> {
    load(text, &[]).unwrap().warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn storefronts_are_parsed_with_their_defaults() {
    assert!(load(MINIMAL, &[]).unwrap().settings.tenants[0].storefronts.is_empty());
    let storefront = only(&with_keys(""));
    assert_eq!((storefront.site.as_str(), storefront.client_id.as_str()), ("RefArch", "c1"));
    assert_eq!((storefront.cookies, storefront.host_prefix), (CookieMode::PwaKit, false));
    assert_eq!((storefront.cookie_domain, storefront.base_path.as_str()), (None, ""));
    assert_eq!((storefront.refresh_guest, storefront.refresh_registered), (None, None));
    assert!(storefront.preview_origins.is_empty());

    let all = with_keys(
        "cookies = 'reference'\nhost_prefix = true\nrefresh_guest = '30d'\nrefresh_registered = '90d'\n\
         preview_origins = ['https://preview.shop.example', 'http://localhost:4000']\nbase_path = '/shop'\ncookie_domain = ''",
    );
    let storefront = only(&all);
    assert_eq!((storefront.cookies, storefront.host_prefix), (CookieMode::Reference, true));
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 3600));
    assert_eq!((storefront.refresh_guest, storefront.refresh_registered), (days(30), days(90)));
    assert_eq!(storefront.preview_origins, ["https://preview.shop.example", "http://localhost:4000"]);
    assert_eq!((storefront.base_path.as_str(), storefront.cookie_domain), ("/shop", None));
    let [warning] = warned(&all).try_into().unwrap();
    assert!(warning.starts_with("store.type: the ids in reference cookies end with this process"), "{warning}");
    assert_eq!(warned(&with_keys("")), [""; 0]);

    let tenant = &load(&all, &[]).unwrap().settings.tenants[0];
    assert!(tenant.storefront(&"RefArch".parse().unwrap()).is_some());
    assert!(tenant.storefront(&"RefArchGlobal".parse().unwrap()).is_none());
}

/// `Domain` and `__Host-` exclude each other (RFC 6265bis, 4.1.3.2), and PWA Kit's names have no prefix.
#[test]
fn host_prefix_is_the_default_only_where_browsers_accept_it() {
    for (keys, expected) in [
        ("cookies = 'reference'", true),
        ("cookies = 'reference'\ncookie_domain = ''", true),
        ("cookies = 'reference'\nhost_prefix = false", false),
        ("cookies = 'reference'\ncookie_domain = 'shop.example'", false),
        ("cookies = 'reference'\ncookie_domain = 'shop.example'\nhost_prefix = false", false),
        ("cookies = 'pwa-kit'", false),
        ("cookies = 'pwa-kit'\nhost_prefix = false", false),
    ] {
        assert_eq!(only(&with_keys(keys)).host_prefix, expected, "{keys}");
    }
    for (keys, expected) in [
        (
            "cookies = 'reference'\ncookie_domain = 'shop.example'\nhost_prefix = true",
            "remove host_prefix or cookie_domain",
        ),
        ("cookies = 'reference'\ncookie_domain = 'example'\nhost_prefix = true", "remove host_prefix or cookie_domain"),
        ("host_prefix = true", "set cookies = \"reference\""),
    ] {
        let found = errors(&with_keys(keys), &[]);
        let starts = |error: &&String| error.starts_with("tenants[0].storefronts[0].host_prefix: ");
        assert!(found.iter().find(starts).is_some_and(|error| error.contains(expected)), "{keys}: {found:?}");
    }
}

#[test]
fn storefronts_with_faults_are_rejected_with_their_remedy() {
    let valid = "site = 'RefArch'\nclient_id = 'c1'";
    for (table, key, words) in [
        ("client_id = 'c1'".to_owned(), "site", "missing"),
        ("site = 'RefArch'".to_owned(), "client_id", "missing"),
        ("site = 'RefArhc'\nclient_id = 'c1'".to_owned(), "site", "did you mean RefArch?"),
        ("site = 'Elsewhere'\nclient_id = 'c1'".to_owned(), "site", "not a site of this tenant"),
        ("site = 'RefArch'\nclient_id = 'c2'".to_owned(), "client_id", "not one of this tenant's slas_clients"),
        (format!("{valid}\ncookies = 'pwakit'"), "cookies", "expected \"pwa-kit\" or \"reference\""),
        (format!("{valid}\ncookie_domains = 'x'"), "cookie_domains", "did you mean `cookie_domain`?"),
        (format!("{valid}\nrefresh_guest = '31d'"), "refresh_guest", "at most 30 days"),
        (format!("{valid}\nrefresh_registered = '91d'"), "refresh_registered", "at most 90 days"),
        (format!("{valid}\nrefresh_guest = '0s'"), "refresh_guest", "greater than zero"),
        (format!("{valid}\nrefresh_guest = '30'"), "refresh_guest", "not a duration"),
        (format!("{valid}\nbase_path = 'shop'"), "base_path", "expected / and one segment"),
        (format!("{valid}\nbase_path = '/shop/'"), "base_path", "expected / and one segment"),
        (format!("{valid}\nbase_path = '/mobify'"), "base_path", "other paths of the gateway begin so"),
        (format!("{valid}\nbase_path = '/checkout'"), "base_path", "other paths of the gateway begin so"),
        (format!("{valid}\n[[tenants.storefronts]]\n{valid}"), "site", "same as storefronts[0]"),
    ] {
        let found = errors(&with_storefront(&table), &[]);
        let [error] = found.as_slice() else { panic!("{table}: {found:?}") };
        let position = usize::from(words.starts_with("same"));
        let path = format!("tenants[0].storefronts[{position}].{key}: ");
        assert!(error.starts_with(&path) && error.contains(words), "{table}: {error}");
    }
}

#[test]
fn cookie_domain_that_browsers_ignore_is_rejected() {
    for (domain, words) in [
        ("*.shop.example", "wildcard"),
        ("shop.example,other.example", "separator"),
        ("shop.example; Secure", "separator"),
        ("domain=shop.example", "separator"),
        ("shop.example ", "space"),
        ("shop", "a single label"),
        (".example", "a single label"),
        ("localhost", "a single label"),
        ("127.0.0.1", "an IP address"),
        ("[::1]", "an IP address"),
        ("https://shop.example", "not a domain"),
        ("shop.example:443", "not a domain"),
        ("shop.example.", "not a domain"),
        ("..shop.example", "not a domain"),
        (".", "not a domain"),
        ("käse.example", "punycode"),
    ] {
        let found = errors(&with_keys(&format!("cookie_domain = '{domain}'")), &[]);
        let [error] = found.as_slice() else { panic!("{domain}: {found:?}") };
        assert!(error.starts_with("tenants[0].storefronts[0].cookie_domain: ") && error.contains(words), "{error}");
    }
    for domain in ["shop.example", ".shop.example", "Shop.Example", "xn--kse-qla.example", "a.b.shop.example"] {
        assert_eq!(only(&with_keys(&format!("cookie_domain = '{domain}'"))).cookie_domain.as_deref(), Some(domain));
    }
}

#[test]
fn cookie_domain_of_strangers_causes_warning() {
    for domain in ["co.uk", ".co.uk", "vercel.app", "Mobify-Storefront.com"] {
        let found = warned(&with_keys(&format!("cookie_domain = '{domain}'")));
        assert!(found.iter().any(|warning| warning.contains("anyone can get a host below this domain")), "{found:?}");
    }
    let found = warned(&with_keys("cookie_domain = 'shop.example'"));
    assert!(!found.iter().any(|warning| warning.contains("anyone can get a host")), "{found:?}");
}

#[test]
fn preview_origin_that_is_no_exact_secure_origin_is_rejected() {
    for (origin, words) in [
        ("https://*.shop.example", "wildcard"),
        ("http://localhost:*", "wildcard"),
        ("*", "wildcard"),
        ("http://preview.shop.example", "must be https"),
        ("https://preview.shop.example/", "without a slash"),
        ("preview.shop.example", "expected scheme, host"),
        ("null", "name the origin of the page"),
    ] {
        let found = errors(&with_keys(&format!("preview_origins = ['https://a.example', '{origin}']")), &[]);
        let [error] = found.as_slice() else { panic!("{origin}: {found:?}") };
        assert!(
            error.starts_with("tenants[0].storefronts[0].preview_origins[1]: ") && error.contains(words),
            "{error}"
        );
    }
}

/// Behind a storefront's server, all shoppers have the server's address, unless the configuration names the server.
#[test]
fn storefront_without_server_causes_a_warning() {
    let without = with_keys("").replace(SERVERS, "");
    let is_warned = |text: &str| warned(text).iter().any(|warning| warning.starts_with("limits.networks: "));
    assert!(is_warned(&without));
    for (table, keys) in [
        ("[[limits.networks]]", "network = '10.0.0.0/8'\nclient_address_header = 'X-Client-IP'"),
        ("[[limits.networks]]", "network = '10.0.0.0/8'\nstorefront_server = true"),
        ("[server]", "trusted_proxies = ['10.0.0.0/8']"),
    ] {
        assert!(!is_warned(&format!("{table}\n{keys}\n{without}")), "{keys}");
    }
    assert!(is_warned(&format!("[[limits.networks]]\nnetwork = '10.0.0.0/8'\nguests_per_address = 0\n{without}")));
    assert!(!is_warned(MINIMAL), "no storefront");
}
