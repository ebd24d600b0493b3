//! The cookies of token responses, by the cases of PWA Kit's own tests.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;

const NOW: u64 = 1_700_000_000;
const END: u64 = NOW + 1800;

fn settings() -> CookieSettings {
    CookieSettings {
        site: "RefArch".parse().unwrap(),
        domain: None,
        host_prefix: false,
        refresh_guest: None,
        refresh_registered: None,
        is_reference: false,
    }
}

fn token(claims: &Value) -> String {
    format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn claims(upn: &str) -> Value {
    json!({ "exp": END, "dnt": "0", "isb": format!("uido:ecom::upn:{upn}::uidn:a::gcid:b") })
}

fn convert(body: &Value, settings: &CookieSettings) -> Result<(Value, Vec<String>), GatewayError> {
    let body = Bytes::from(body.to_string());
    let converted = token_response(&body, settings, &TokenValues::Tokens, NOW, SiteAttributes::Lax)?;
    let cookies = converted.cookies.iter().map(|cookie| cookie.to_str().unwrap().to_owned());
    Ok((serde_json::from_slice(&converted.body).unwrap(), cookies.collect()))
}

/// Name and value of each cookie.
fn pairs(cookies: &[String]) -> Vec<&str> {
    cookies.iter().map(|cookie| cookie.split(';').next().unwrap()).collect()
}

#[test]
fn cookies_of_a_full_response_are_in_the_order_of_pwa_kit() {
    let access = token(&claims("ada"));
    let body = json!({
        "access_token": access, "refresh_token": "refresh", "refresh_token_expires_in": 7_776_000, "expires_in": 1800,
        "idp_access_token": "idp", "idp_refresh_token": "idpr", "id_token": "id", "customer_id": "c1", "enc_user_id": "e1",
        "usid": "u1", "token_type": "Bearer",
    });
    let (body, cookies) = convert(&body, &settings()).unwrap();
    let access_pair = format!("cc-at_RefArch={access}");
    assert_eq!(
        pairs(&cookies),
        [
            access_pair.as_str(),
            "cc-at-expires_RefArch=1700001800",
            "cc-at-dnt_RefArch=0",
            "uido_RefArch=ecom",
            "idp_access_token_RefArch=idp",
            "id_token_RefArch=id",
            "customer_type_RefArch=registered",
            "customer_id_RefArch=c1",
            "cc-nx-g_RefArch=",
            "cc-nx_RefArch=refresh",
            "enc_user_id_RefArch=e1",
            "usid_RefArch=u1",
            "cc-nx-expires_RefArch=1707776000",
            "idp_refresh_token_RefArch=idpr",
        ]
    );
    let expected = json!({ "refresh_token_expires_in": 7_776_000, "expires_in": 1800, "id_token": "id", "customer_id": "c1",
            "enc_user_id": "e1", "usid": "u1", "token_type": "Bearer" });
    assert_eq!(body, expected);
    for cookie in &cookies {
        let name = cookie.split("_RefArch").next().unwrap();
        let is_secret = ["cc-at", "cc-nx", "cc-nx-g", "idp_access_token", "idp_refresh_token"].contains(&name);
        assert_eq!(cookie.contains("; HttpOnly"), is_secret, "{cookie}");
        assert!(cookie.contains("; Path=/; Expires=") && cookie.contains("; Secure"), "{cookie}");
    }
}

#[test]
fn guest_is_recognized_by_isb() {
    for (isb, kind) in [
        (json!("uido:slas::upn:Guest::uidn:Guest User"), "guest"),
        (json!("uido:ecom::upn:ada@example.com"), "registered"),
        (json!("uido:ecom"), "registered"),
        (json!(null), "guest"),
    ] {
        let access = token(&json!({ "exp": END, "isb": isb }));
        let (_, cookies) = convert(&json!({ "access_token": access, "refresh_token": "r" }), &settings()).unwrap();
        let expected = format!("customer_type_RefArch={kind}");
        assert!(pairs(&cookies).contains(&expected.as_str()), "{isb}");
        let refresh = if kind == "guest" { "cc-nx-g_RefArch=r" } else { "cc-nx_RefArch=r" };
        assert!(pairs(&cookies).contains(&refresh), "{isb}");
        assert!(!cookies.iter().any(|cookie| cookie.starts_with("cc-at-dnt")), "no claim, no cookie");
    }
}

#[test]
fn consent_is_written_as_javascript_writes_it() {
    for (claim, text) in [(json!("1"), "1"), (json!(0), "0"), (json!(true), "true")] {
        let access = token(&json!({ "exp": END, "dnt": claim }));
        let (_, cookies) = convert(&json!({ "access_token": access }), &settings()).unwrap();
        assert!(pairs(&cookies).contains(&format!("cc-at-dnt_RefArch={text}").as_str()), "{claim}");
    }
}

#[test]
fn refresh_cookie_ends_by_configuration_then_slas_then_30_or_90_days() {
    let day = 24 * 3600;
    let own = CookieSettings { refresh_guest: Some(Duration::from_secs(7 * day)), ..settings() };
    for (settings, upn, of_slas, life) in [
        (settings(), "Guest", json!(100), 100),
        (settings(), "Guest", json!("100"), 100),
        (settings(), "Guest", json!(null), 30 * day),
        (settings(), "ada", json!(null), 90 * day),
        (own.clone(), "Guest", json!(100), 7 * day),
        (own, "ada", json!(100), 100),
    ] {
        let body =
            json!({ "access_token": token(&claims(upn)), "refresh_token": "r", "refresh_token_expires_in": of_slas });
        let (_, cookies) = convert(&body, &settings).unwrap();
        let expected = format!("cc-nx-expires_RefArch={}", NOW + life);
        assert!(pairs(&cookies).contains(&expected.as_str()), "{upn} {of_slas}: {cookies:?}");
    }
}

#[test]
fn response_without_tokens_sets_no_cookies() {
    for body in ["", "not json", "[]", "\"text\"", "\u{feff}{}"] {
        let body = Bytes::from(body);
        let error = token_response(&body, &settings(), &TokenValues::Tokens, NOW, SiteAttributes::Lax).unwrap_err();
        assert!(matches!(error, GatewayError::UpstreamUnavailable), "{body:?}");
    }
    assert_eq!(convert(&json!({ "a": 1 }), &settings()).unwrap(), (json!({ "a": 1 }), Vec::new()));
}

#[test]
fn unreadable_access_token_and_unfit_values_are_errors() {
    for body in [
        json!({ "access_token": "opaque" }),
        json!({ "access_token": "a.b.c" }),
        json!({ "access_token": token(&claims("ada")), "refresh_token": "a;b" }),
        json!({ "access_token": token(&claims("ada")), "customer_id": "a\r\nb" }),
    ] {
        assert_eq!(convert(&body, &settings()).unwrap_err(), GatewayError::UpstreamUnavailable, "{body}");
    }
    let long = json!({ "access_token": token(&claims("ada")), "refresh_token": "r".repeat(4090) });
    assert_eq!(convert(&long, &settings()).unwrap_err(), GatewayError::CookieTooLarge("cc-nx_RefArch".into()));
}

#[test]
fn domain_deletes_the_cookie_of_the_host_first() {
    let with_domain = CookieSettings { domain: Some(".shop.example".into()), ..settings() };
    let (_, cookies) = convert(&json!({ "access_token": token(&claims("Guest")) }), &with_domain).unwrap();
    for pair in cookies.chunks(2) {
        let [deletion, value] = pair else { panic!("{pair:?}") };
        assert_eq!(deletion.split('=').next(), value.split('=').next());
        assert!(deletion.contains("=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure"), "{deletion}");
        assert!(value.contains("; Domain=.shop.example; Secure"), "{value}");
    }
}

#[test]
fn logout_deletes_every_cookie_and_the_mark() {
    let cookies = expired(&settings(), SiteAttributes::Lax);
    let texts: Vec<&str> = cookies.iter().map(|cookie| cookie.to_str().unwrap()).collect();
    assert_eq!(texts.len(), SessionCookie::ALL.len() + 1);
    for text in &texts {
        assert!(text.contains("=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure"), "{text}");
    }
    assert_eq!(
        texts.last(),
        Some(
            &"__Host-pwakit_preview_ctx=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Secure; HttpOnly; SameSite=none; Partitioned"
        )
    );
}

#[test]
fn host_prefix_is_for_cookies_that_scripts_cannot_read() {
    let prefixed = CookieSettings { host_prefix: true, is_reference: true, ..settings() };
    assert_eq!(prefixed.name(SessionCookie::Access), "__Host-cc-at_RefArch");
    assert_eq!(prefixed.name(SessionCookie::GuestRefresh), "__Host-cc-nx-g_RefArch");
    assert_eq!(prefixed.name(SessionCookie::AccessExpires), "cc-at-expires_RefArch");
}
