//! Forged, stolen and misused tokens against an operation of a running gateway.
//!
//! [`forge`] signs every forgery, and can also sign genuine tokens. Each test first sees a genuine token accepted, so
//! that a rejection has no other cause than the forgery.

mod forge;
mod jwks;
mod vectors;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD},
};
use reqwest::Method;
use serde_json::{Value, json};

use self::forge::{Forge, ORDER, changed, input, with_signature};
use crate::world::{
    Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World,
    baskets, customers, eventually, login_target, products,
};

const PRODUCTS: &str = "shopper-products.getProducts";
const INVALID: (u16, &str) = (401, "token_invalid");

/// Presents a token to an operation that any shopper may call.
async fn present(world: &World, token: &str) -> Answer {
    world.send(world.get(&products("?ids=a&siteId=RefArch")).bearer_auth(token)).await
}

/// Asserts that each of these tokens is refused with the same error and that the API receives no request.
async fn assert_all_refused(world: &World, expected: (u16, &str), tokens: impl IntoIterator<Item = (String, String)>) {
    world.simulator.clear_ledger();
    for (what, token) in tokens {
        let answer = present(world, &token).await;
        assert_eq!(answer.refusal(), expected, "{what}: {}", answer.text());
        if expected == INVALID {
            let challenge = answer.header("www-authenticate");
            assert_eq!(challenge, Some(r#"Bearer realm="shopper-gateway", error="invalid_token""#), "{what}");
        }
        assert!(token.len() < 20 || !answer.text().contains(&token), "{what}: the answer repeats the token");
    }
    assert!(world.forwarded(PRODUCTS).is_empty());
}

fn named<const N: usize>(tokens: [(&str, String); N]) -> impl Iterator<Item = (String, String)> {
    tokens.into_iter().map(|(what, token)| (what.to_owned(), token))
}

/// A world, a forge with SLAS's key, and the claims of an accepted token.
async fn world_with_forge() -> (World, Forge, Value) {
    let world = World::start().await;
    let forge = Forge::with_slas_key(&world);
    let claims = forge::claims(&world);
    assert_eq!(present(&world, &forge.token(&claims)).await.refusal(), (200, "none"));
    (world, forge, claims)
}

#[tokio::test]
async fn unsigned_token_is_rejected_for_any_spelling_of_none() {
    let (world, forge, claims) = world_with_forge().await;
    let mut tokens = Vec::new();
    for alg in ["none", "None", "NONE", "nOnE", "", " ", "none ", "null"] {
        let header = forge.header_with("alg", alg.into());
        let input = input(&header, &claims.to_string());
        tokens.push((format!("{alg:?} without signature"), format!("{input}.")));
        tokens.push((format!("{alg:?} without third part"), input.clone()));
        tokens.push((format!("{alg:?} with a zero byte"), with_signature(&input, &[0])));
        tokens.push((format!("{alg:?} with a signature"), forge.sign(&header, &claims.to_string())));
    }
    for alg in [json!(null), json!(0), json!(false), json!(["ES256"]), json!({"ES256": 1})] {
        let header = forge.header_with("alg", alg.clone());
        tokens.push((format!("alg {alg}"), forge.sign(&header, &claims.to_string())));
    }
    let null = forge.header().to_string().replace(r#""ES256""#, "null");
    tokens.push(("alg null".into(), forge.sign(&null, &claims.to_string())));
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn public_key_is_not_accepted_as_hmac_secret() {
    let (world, forge, claims) = world_with_forge().await;
    let jwks = world.simulator.slas_jwks();
    let published = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == forge.kid.as_str()).unwrap();
    let secrets: Vec<(&str, Vec<u8>)> = vec![
        ("PEM", forge.spki_pem().into_bytes()),
        ("PEM without its last line end", forge.spki_pem().trim_end().as_bytes().to_vec()),
        ("DER", forge.spki()),
        ("DER in base64", STANDARD.encode(forge.spki()).into_bytes()),
        ("raw point", forge.point()),
        ("raw point without its 4", forge.point()[1..].to_vec()),
        ("JWK", forge.jwk().to_string().into_bytes()),
        ("JWK as published", published.to_string().into_bytes()),
        ("x", published["x"].as_str().unwrap().as_bytes().to_vec()),
        ("JWKS", jwks.to_string().into_bytes()),
        ("kid", forge.kid.clone().into_bytes()),
        ("nothing", Vec::new()),
    ];
    let mut tokens = Vec::new();
    for alg in ["HS256", "ES256", "hs256", "HS512"] {
        let header = forge.header_with("alg", alg.into());
        for (what, secret) in &secrets {
            tokens.push((format!("{alg} {what}"), forge::hmac_token(secret, &header, &claims.to_string())));
        }
    }
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn other_algorithm_is_rejected_even_correctly_signed() {
    let (world, forge, claims) = world_with_forge().await;
    let claims = claims.to_string();
    let under = |alg: &str, kid: &str| {
        let header = changed(forge.header(), "kid", kid.into());
        input(&changed(header, "alg", alg.into()).to_string(), &claims)
    };
    let rs256_of_slas = under("RS256", &forge.kid);
    let rs256 = under("RS256", &world.simulator.account_manager_kid());
    let es256_of_account_manager = under("ES256", &world.simulator.account_manager_kid());
    let (es384, eddsa) = (under("ES384", &forge.kid), under("EdDSA", &forge.kid));
    let es256 = under("ES256", &forge.kid);
    let rsa = |input: &str| with_signature(input, &forge::account_manager_signature(&world, input));
    let mut tokens: Vec<_> = named([
        ("RS256 of Account Manager, kid of SLAS", rsa(&rs256_of_slas)),
        ("RS256 of Account Manager over a shopper's claims", rsa(&rs256)),
        ("ES256 with an RSA signature", rsa(&es256_of_account_manager)),
        ("ES256 with an RSA signature, kid of SLAS", rsa(&es256)),
        ("ES384", with_signature(&es384, &forge::p384_signature(&es384))),
        ("ES256 with a P-384 signature", with_signature(&es256, &forge::p384_signature(&es256))),
        ("EdDSA", with_signature(&eddsa, &forge::ed25519_signature(&eddsa))),
        ("ES256 with an Ed25519 signature", with_signature(&es256, &forge::ed25519_signature(&es256))),
    ])
    .collect();
    for alg in ["es256", "Es256", "ES256 ", "ES256K", "ES512", "PS256", "RS512", "ES256\u{0}", "dir"] {
        let header = forge.header_with("alg", alg.into());
        tokens.push((format!("{alg:?} under the right key"), forge.sign(&header, &claims)));
    }
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn signature_by_another_key_or_over_other_text_is_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let stranger = Forge::with_foreign_key(&world);
    let good = forge.token(&claims);
    let other = forge.token(&changed(claims.clone(), "jti", "other".into()));
    let part = |token: &str, position: usize| token.split('.').nth(position).unwrap().to_owned();
    let next_key = {
        let jwks = world.simulator.slas_jwks();
        let key = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] != forge.kid.as_str()).unwrap().clone();
        forge.sign(&forge.header_with("kid", key["kid"].clone()), &claims.to_string())
    };
    assert_all_refused(
        &world,
        INVALID,
        named([
            ("a stranger's key", stranger.token(&claims)),
            ("the kid of the issuer's other key", next_key),
            ("a signature of other claims", format!("{}.{}.{}", part(&good, 0), part(&good, 1), part(&other, 2))),
            ("claims of another signature", format!("{}.{}.{}", part(&good, 0), part(&other, 1), part(&good, 2))),
            (
                "another header",
                format!(
                    "{}.{}.{}",
                    URL_SAFE_NO_PAD.encode(forge.header_with("ver", "2.0".into())),
                    part(&good, 1),
                    part(&good, 2)
                ),
            ),
        ]),
    )
    .await;
}

#[tokio::test]
async fn malformed_signature_is_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let good = forge.token(&claims);
    let input = input(&forge.header().to_string(), &claims.to_string());
    let genuine = URL_SAFE_NO_PAD.decode(good.rsplit_once('.').unwrap().1).unwrap();
    let (r, s) = genuine.split_at(32);
    let zero = [0; 32];
    let one = { [&[0; 31][..], &[1]].concat() };
    let ones = [0xff; 32];
    let signatures: Vec<(&str, Vec<u8>)> = vec![
        ("r and s of 0", [zero, zero].concat()),
        ("r of 0", [&zero, s].concat()),
        ("s of 0", [r, &zero].concat()),
        ("r and s of 1", [one.as_slice(), &one].concat()),
        ("r of n", [&ORDER, s].concat()),
        ("s of n", [r, &ORDER].concat()),
        ("r and s of n", [ORDER, ORDER].concat()),
        ("r and s of all ones", [ones, ones].concat()),
        ("r and s exchanged", [s, r].concat()),
        ("ASN.1", forge.asn1_signature(&input)),
        ("63 bytes", genuine[..63].to_vec()),
        ("65 bytes", [&genuine[..], &[0]].concat()),
        ("65 bytes, the first 0", [&[0], &genuine[..]].concat()),
        ("96 bytes", [&[0; 16], r, &[0; 16], s].concat()),
        ("128 bytes", [&genuine[..], &genuine].concat()),
        ("32 bytes", r.to_vec()),
        ("1 byte", vec![0]),
        ("none", Vec::new()),
    ];
    let tokens = signatures.iter().map(|(what, bytes)| ((*what).to_owned(), with_signature(&input, bytes)));
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn unknown_key_id_is_fetched_once_and_never_used_as_path() {
    let (world, forge, claims) = world_with_forge().await;
    let claims = claims.to_string();
    let long = "k".repeat(257);
    let tokens = [
        "unknown",
        "00000000-0000-4000-8000-000000000000",
        "../../../../dev/null",
        "/etc/passwd",
        "file:///dev/null",
        "http://127.0.0.1/key",
        "' OR '1'='1",
        "x' UNION SELECT 'key'; --",
        "%00",
        "k\u{0}",
        "\u{1F511}",
        long.as_str(),
        "",
        " ",
    ]
    .map(|kid| (format!("kid {kid:?}"), forge.sign(&forge.header_with("kid", kid.into()), &claims)));
    let others = [json!(null), json!(1), json!(["a"]), json!({"a": forge.kid})]
        .map(|kid| (format!("kid {kid}"), forge.sign(&forge.header_with("kid", kid), &claims)));
    assert_all_refused(&world, INVALID, tokens.into_iter().chain(others)).await;
    let ledger = world.simulator.ledger();
    assert!(ledger.iter().all(|entry| (entry.service.as_str(), entry.flow.as_str()) == ("slas", "jwks")), "{ledger:?}");
    assert!(ledger.len() <= 1, "{} fetches of the key set", ledger.len());
}

#[tokio::test]
async fn key_embedded_in_token_is_never_used_or_fetched() {
    let (world, forge, claims) = world_with_forge().await;
    let claims = claims.to_string();
    let mut stranger = Forge::with_foreign_key(&world);
    let own_jwks = json!({"keys": [stranger.jwk()]});
    // This address serves the forger's key.
    world.simulator.inject(salesforce_simulator::Fault {
        service: None,
        flow: None,
        path_prefix: Some("/strangers".into()),
        remaining: None,
        effect: salesforce_simulator::Effect::Status { code: 200, retry_after: None, body: Some(own_jwks.to_string()) },
    });
    let address = format!("{}/strangers/keys", world.simulator.url());
    let certificate = STANDARD.encode(stranger.spki());
    let bait = |forge: &Forge| {
        [
            ("jwk", forge.header_with("jwk", stranger.jwk())),
            ("jku", forge.header_with("jku", address.as_str().into())),
            ("x5u", forge.header_with("x5u", address.as_str().into())),
            ("x5c", forge.header_with("x5c", json!([certificate]))),
        ]
    };
    let baits = bait(&stranger);
    let tokens: Vec<_> =
        baits.iter().map(|(what, header)| ((*what).to_owned(), stranger.sign(header, &claims))).collect();
    assert_all_refused(&world, INVALID, tokens).await;
    let known_to_be_genuine: Vec<_> = bait(&forge).iter().map(|(_, header)| forge.sign(header, &claims)).collect();

    stranger.kid = "strangers".into();
    let tokens: Vec<_> = baits
        .iter()
        .map(|(what, header)| {
            let header = header.replace(&forge.kid, "strangers");
            ((*what).to_owned(), stranger.sign(&header, &claims))
        })
        .collect();
    assert_all_refused(&world, INVALID, tokens).await;

    // The gateway ignores these members: they change nothing under the right key.
    for token in known_to_be_genuine {
        assert_eq!(present(&world, &token).await.refusal(), (200, "none"));
    }
    let ledger = world.simulator.ledger();
    assert!(ledger.iter().all(|entry| !entry.path.starts_with("/strangers")), "{ledger:?}");
}

#[tokio::test]
async fn jws_extensions_and_other_serializations_are_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let text = claims.to_string();
    let good = forge.token(&claims);
    let [header, payload, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let flattened = json!({"protected": header, "payload": payload, "signature": signature}).to_string();
    let general = json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]});
    let mut tokens: Vec<_> = named([
        ("five parts, as JWE has", format!("{header}.{payload}.{signature}.{payload}.{signature}")),
        ("four parts", format!("{good}.{signature}")),
        ("two parts", format!("{header}.{payload}")),
        ("one part", header.to_owned()),
        ("dots only", "..".to_owned()),
        ("no header", format!(".{payload}.{signature}")),
        ("no claims", format!("{header}..{signature}")),
        ("flattened JSON", flattened.clone()),
        ("general JSON", general.to_string()),
        ("flattened JSON in base64url", URL_SAFE_NO_PAD.encode(&flattened)),
        ("a header that is a list", forge.sign(&format!("[{}]", forge.header()), &text)),
        ("a header that is a text", forge.sign(r#""ES256""#, &text)),
        ("a header with something behind", forge.sign(&format!("{} x", forge.header()), &text)),
        (
            "a header that is not UTF-8",
            with_signature(&good.replace(header, &URL_SAFE_NO_PAD.encode([0xff])), &[1; 64]),
        ),
        ("a token for something else", forge.sign(&forge.header_with("typ", "logout+jwt".into()), &text)),
        ("a token in a token", forge.sign(&forge.header_with("cty", "JWT".into()), &json!(good).to_string())),
        ("claims that are a list", forge.sign(&forge.header().to_string(), &format!("[{text}]"))),
        ("claims with something behind", forge.sign(&forge.header().to_string(), &format!("{text}{text}"))),
        ("no text for claims", forge.sign(&forge.header().to_string(), "x")),
    ])
    .collect();
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!(["b64"])),
        ("b64", json!(false)),
        ("b64", json!(true)),
        ("enc", json!("A128GCM")),
        ("zip", json!("DEF")),
    ] {
        tokens.push((format!("{name} {value}"), forge.sign(&forge.header_with(name, value), &text)));
    }
    // Unencoded payload (RFC 7797), correctly signed.
    let unencoded = json!({"alg": "ES256", "kid": forge.kid, "b64": false, "crit": ["b64"]}).to_string();
    tokens.push(("b64 as RFC 7797 has it".into(), forge.sign(&unencoded, &text)));
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn alternative_token_encodings_are_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let good = forge.token(&claims);
    let [header, payload, signature]: [&str; 3] = good.split('.').collect::<Vec<_>>().try_into().unwrap();
    let recoded =
        |part: &str, engine: &base64::engine::GeneralPurpose| engine.encode(URL_SAFE_NO_PAD.decode(part).unwrap());
    // The last character of the base64 of 64 bytes has four unused bits.
    let (begun, last) = signature.split_at(signature.len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    let mut tokens: Vec<_> = (1..16)
        .map(|bits| {
            let other = &alphabet[place + bits..=place + bits];
            (format!("unread bits {bits}"), format!("{header}.{payload}.{begun}{other}"))
        })
        .collect();
    tokens.extend(named([
        ("padded signature", format!("{header}.{payload}.{signature}==")),
        ("padded everywhere", [header, payload, signature].map(|part| recoded(part, &URL_SAFE)).join(".") + "="),
        ("standard alphabet", in_standard_alphabet(&forge, &claims)),
        ("a character too many", format!("{good}A")),
        ("a dot behind", format!("{good}.")),
        ("a dot before", format!(".{good}")),
        ("percent-encoded", good.replacen('.', "%2E", 1)),
        ("quoted", format!("\"{good}\"")),
        ("a tab inside", good.replacen('.', ".\t", 1)),
        ("a space inside", good.replacen('.', ". ", 1)),
        ("a comma behind", format!("{good},")),
        ("a semicolon behind", format!("{good};a=b")),
    ]));
    assert_all_refused(&world, INVALID, tokens).await;
    assert_eq!(present(&world, &good).await.refusal(), (200, "none"));
}

/// A genuine token whose signature is written with `+` and `/` for `-` and `_`.
fn in_standard_alphabet(forge: &Forge, claims: &Value) -> String {
    loop {
        let token = forge.token(claims);
        let (input, signature) = token.rsplit_once('.').unwrap();
        if signature.contains(['-', '_']) {
            return format!("{input}.{}", signature.replace('-', "+").replace('_', "/"));
        }
    }
}

#[tokio::test]
async fn expired_or_malformed_times_are_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let now = claims["iat"].as_i64().unwrap();
    let with = |name: &str, value: Value| forge.token(&changed(claims.clone(), name, value));
    let raw = |value: &str| {
        let text = changed(claims.clone(), "exp", "EXP".into()).to_string().replace(r#""EXP""#, value);
        forge.sign(&forge.header().to_string(), &text)
    };
    let expired = [
        ("an hour ago", with("exp", (now - 3600).into())),
        ("beyond the leeway", with("exp", (now - 31).into())),
        ("at the beginning of time", with("exp", 0.into())),
    ];
    assert_all_refused(&world, (401, "token_expired"), named(expired)).await;
    let expired = present(&world, &with("exp", 1.into())).await;
    assert_eq!(
        expired.header("www-authenticate"),
        Some(r#"Bearer realm="shopper-gateway", error="invalid_token", error_description="the access token expired""#)
    );

    let mut tokens: Vec<_> = named([
        ("no exp", with("exp", Value::Null)),
        ("exp a text", with("exp", (now + 600).to_string().into())),
        ("exp negative", with("exp", (-1).into())),
        ("exp true", with("exp", true.into())),
        ("exp a list", with("exp", json!([now + 600]))),
        ("exp null", raw("null")),
        ("exp with a fraction", raw(&format!("{}.5", now + 600))),
        ("exp as a float", raw("1e10")),
        ("exp beyond 64 bits", raw("18446744073709551616")),
        ("exp beyond a float", raw("1e999")),
        ("nbf in an hour", with("nbf", (now + 3600).into())),
        ("nbf beyond the leeway", with("nbf", (now + 60).into())),
        ("nbf a text", with("nbf", now.to_string().into())),
        ("nbf negative", with("nbf", (-1).into())),
    ])
    .collect();
    let without_nbf = changed(claims.clone(), "nbf", Value::Null);
    tokens.push(("iat in an hour".into(), forge.token(&changed(without_nbf, "iat", (now + 3600).into()))));
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn issuer_audience_or_subject_of_another_tenant_is_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let with = |name: &str, value: Value| forge.token(&changed(claims.clone(), name, value));
    let sub = |text: &str| with("sub", text.into());
    let others = claims.to_string().replace("zzrf_001", "zzrf_002");
    assert_all_refused(
        &world,
        INVALID,
        named([
            ("no iss", with("iss", Value::Null)),
            ("iss of another tenant", with("iss", "slas/prod/zzrf_002".into())),
            ("iss of a tenant not served", with("iss", "slas/prod/zzrf_009".into())),
            ("iss of another environment", with("iss", "slas/dev/zzrf_001".into())),
            ("iss of nobody", with("iss", "https://slas.example/slas/prod/zzrf_001".into())),
            ("iss with a path", with("iss", "slas/prod/zzrf_001/".into())),
            ("iss in another case", with("iss", "SLAS/prod/zzrf_001".into())),
            ("iss a list", with("iss", json!(["slas/prod/zzrf_001"]))),
            ("no aud", with("aud", Value::Null)),
            ("aud of another tenant", with("aud", "commercecloud/prod/zzrf_002".into())),
            ("aud of another service", with("aud", "slas/prod/zzrf_001".into())),
            ("aud a list of others", with("aud", json!(["commercecloud/prod/zzrf_002", "slas/prod/zzrf_001"]))),
            ("aud an empty list", with("aud", json!([]))),
            ("aud a list with something else", with("aud", json!(["commercecloud/prod/zzrf_001", 7]))),
            ("aud a list in a list", with("aud", json!([["commercecloud/prod/zzrf_001"]]))),
            ("no sub", with("sub", Value::Null)),
            ("sub of another tenant", sub("cc-slas::zzrf_002::scid:c::usid:u")),
            ("sub without client", sub("cc-slas::zzrf_001::usid:u")),
            ("sub of an empty client", sub("cc-slas::zzrf_001::scid:::usid:u")),
            ("sub with something behind", sub("cc-slas::zzrf_001::scid:c::usid:u::usid:v")),
            ("no isb", with("isb", Value::Null)),
            ("isb with a site twice", with("isb", "uido:slas::upn:Guest::gcid:g::chid:RefArch::chid:Other".into())),
            ("isb empty", with("isb", "".into())),
            ("no scp", with("scp", Value::Null)),
            ("scp a list", with("scp", json!(["sfcc.shopper-products"]))),
        ]),
    )
    .await;
    // A genuine token of another configured tenant, presented to this one.
    let others = forge.sign(&forge.header().to_string(), &others);
    assert_all_refused(&world, (403, "token_wrong_organization"), named([("another tenant's", others.clone())])).await;
    let there = products("?ids=a&siteId=SiteGenesis").replace(ORGANIZATION, OTHER_ORGANIZATION);
    let isb = changed(claims, "isb", "uido:slas::upn:Guest::gcid:g::chid:SiteGenesis".into());
    let theirs = forge.sign(&forge.header().to_string(), &isb.to_string().replace("zzrf_001", "zzrf_002"));
    let answer = world.send(world.get(&there).bearer_auth(theirs)).await;
    assert_eq!(answer.refusal(), (200, "none"), "{}", answer.text());
    // A token of an unconfigured tenant cannot be verified.
    let unknown = products("?ids=a").replace(ORGANIZATION, "f_ecom_zzrf_009");
    assert_eq!(world.send(world.get(&unknown).bearer_auth(others)).await.refusal(), (404, "operation_unknown"));
}

#[tokio::test]
async fn id_and_refresh_tokens_are_rejected_as_access_tokens() {
    let world = World::start().await;
    let target = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token");
    let request = world.post(&target).basic_auth(PRIVATE_CLIENT, Some("private-client-secret"));
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    let answer = world.send(request.form(&form)).await.json();
    let token = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{name}: {answer}")).to_owned();
    assert_eq!(present(&world, &token("access_token")).await.refusal(), (200, "none"));
    world.simulator.clear_ledger();
    assert_all_refused(
        &world,
        INVALID,
        named([
            ("an id token", token("id_token")),
            ("a refresh token", token("refresh_token")),
            ("a usid", token("usid")),
            ("a word", "undefined".to_owned()),
        ]),
    )
    .await;
}

#[tokio::test]
async fn token_of_wrong_kind_is_rejected() {
    let world = World::start().await;
    let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1");
    let system = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    let shopper = world.mint(|spec| spec.scopes = Some(vec!["sfcc.orders".into(), "sfcc.shopper-products".into()]));
    let right = world.send(world.get(&order).query(&[("siteId", "RefArch")]).bearer_auth(&system)).await;
    assert_eq!(right.refusal().1, "none", "{}", right.text());
    assert_eq!(present(&world, &shopper).await.refusal(), (200, "none"));

    let kind_wrong = (403, "token_kind_wrong");
    assert_eq!(present(&world, &system).await.refusal(), kind_wrong);
    assert_eq!(world.send(world.get(&order).bearer_auth(&shopper)).await.refusal(), kind_wrong);
    let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
    assert_eq!(world.send(logout.bearer_auth(&system)).await.refusal(), kind_wrong);
    let refresh = world.post(&login_target(PUBLIC_CLIENT)).bearer_auth(&system).body(r#"{"type":"refresh"}"#);
    assert_eq!(world.send(refresh).await.refusal(), kind_wrong);
}

#[tokio::test]
async fn forged_system_token_is_rejected() {
    let world = World::start().await;
    let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1?siteId=RefArch");
    let present = async |token: String| world.send(world.get(&order).bearer_auth(token)).await;
    let good = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    assert_eq!(present(good.clone()).await.refusal().1, "none");
    let part = |position: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(good.split('.').nth(position).unwrap()).unwrap()).unwrap()
    };
    let (header, claims) = (part(0), part(1));
    let with =
        |name: &str, value: Value| forge::account_manager_token(&world, &header, &changed(claims.clone(), name, value));
    let under =
        |name: &str, value: Value| forge::account_manager_token(&world, &changed(header.clone(), name, value), &claims);
    let rsa_key = world.simulator.account_manager_jwks()["keys"][0].to_string();
    let now = claims["iat"].as_i64().unwrap();
    world.simulator.clear_ledger();
    for (what, token, expected) in [
        (
            "another tenant's",
            with("scope", json!(["SALESFORCE_COMMERCE_API:zzrf_002", "sfcc.orders"])),
            (403, "token_wrong_organization"),
        ),
        ("no tenant's", with("scope", json!(["sfcc.orders"])), (403, "token_wrong_organization")),
        ("expired", with("exp", (now - 60).into()), (401, "token_expired")),
        ("no exp", with("exp", Value::Null), INVALID),
        ("exp a text", with("exp", "9999999999".into()), INVALID),
        ("nbf in an hour", with("nbf", (now + 3600).into()), INVALID),
        ("another issuer", with("iss", "https://account.example:443/dwsso/oauth2".into()), INVALID),
        ("another audience", with("aud", "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".into()), INVALID),
        ("other audiences", with("aud", json!(["aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa"])), INVALID),
        ("no audience", with("aud", json!([])), INVALID),
        ("another subject", with("sub", "agent@example.com".into()), INVALID),
        ("no scope", with("scope", Value::Null), (403, "token_wrong_organization")),
        ("scope a number", with("scope", 7.into()), INVALID),
        ("crit", under("crit", json!(["exp"])), INVALID),
        ("unknown kid", under("kid", "unknown".into()), INVALID),
        ("no kid", under("kid", Value::Null), INVALID),
        ("PS256", under("alg", "PS256".into()), INVALID),
        (
            "HS256",
            forge::hmac_token(
                rsa_key.as_bytes(),
                &changed(header.clone(), "alg", "HS256".into()).to_string(),
                &claims.to_string(),
            ),
            INVALID,
        ),
        ("RS256 by HMAC", forge::hmac_token(rsa_key.as_bytes(), &header.to_string(), &claims.to_string()), INVALID),
        ("no signature", format!("{}.", input(&header.to_string(), &claims.to_string())), INVALID),
        ("unknown client", with("sub", "dddddddd-dddd-4ddd-8ddd-dddddddddddd".into()), INVALID),
    ] {
        let answer = present(token).await;
        assert_eq!(answer.refusal(), expected, "{what}: {}", answer.text());
    }
    assert!(world.forwarded("orders.getOrder").is_empty());
}

#[tokio::test]
async fn oversized_or_deeply_nested_token_is_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let text = claims.to_string();
    let stranger = Forge::with_foreign_key(&world);
    let open = text.trim_end_matches('}');
    let deep = |levels: usize, close: bool| {
        let closing = if close { "]".repeat(levels) + "}" } else { String::new() };
        format!(r#"{open},"deep":{}{closing}"#, "[".repeat(levels))
    };
    let deep_header = format!(r#"{{"alg":"ES256","kid":"{}","deep":{}"#, forge.kid, "[".repeat(5000));
    let long = |length: usize| changed(claims.clone(), "padding", "p".repeat(length).into());
    assert_all_refused(
        &world,
        INVALID,
        named([
            ("9 KB, genuine", forge.token(&long(6000))),
            ("20 KB", forge.token(&long(15_000))),
            ("40 KB of dots", ".".repeat(40_000)),
            ("8 KB of one letter", "a".repeat(8000)),
            ("claims of 5,000 levels", forge.sign(&forge.header().to_string(), &deep(5000, false))),
            ("claims of 5,000 closed levels", forge.sign(&forge.header().to_string(), &deep(5000, true))),
            ("claims of 2,500 levels by a stranger", stranger.sign(&stranger.header().to_string(), &deep(2500, true))),
            ("a header of 5,000 levels", forge.sign(&deep_header, &text)),
            ("claims of 2,500 levels where a text stands", {
                let nested = text.replacen(
                    r#""aud":"commercecloud/prod/zzrf_001""#,
                    &format!(r#""aud":{}{}"#, "[".repeat(2500), "]".repeat(2500)),
                    1,
                );
                assert_ne!(nested, text);
                forge.sign(&forge.header().to_string(), &nested)
            }),
        ]),
    )
    .await;
    assert_eq!(present(&world, &forge.token(&long(3000))).await.refusal(), (200, "none"));
}

#[tokio::test]
async fn duplicate_json_member_is_rejected() {
    let (world, forge, claims) = world_with_forge().await;
    let header = forge.header().to_string();
    let twice = |document: &str, member: &str| document.replacen('{', &format!("{{{member},"), 1);
    let text = claims.to_string();
    let mut tokens = Vec::new();
    for member in [r#""alg":"none""#, r#""alg":"ES256""#, r#""kid":"x""#, r#""typ":"jwt""#] {
        tokens.push((format!("header {member}"), forge.sign(&twice(&header, member), &text)));
        let behind = header.replacen('}', &format!(",{member}}}"), 1);
        tokens.push((format!("header behind {member}"), forge.sign(&behind, &text)));
    }
    for member in [
        r#""exp":9999999999"#,
        r#""iss":"slas/prod/zzrf_002""#,
        r#""aud":"commercecloud/prod/zzrf_001""#,
        r#""sub":"cc-slas::zzrf_001::scid:a::usid:b""#,
        r#""scp":"sfcc.shopper-standard""#,
        r#""isb":"uido:slas::gcid:a""#,
        r#""nbf":1"#,
    ] {
        tokens.push((format!("claim {member}"), forge.sign(&header, &twice(&text, member))));
        let behind = format!("{},{member}}}", text.trim_end_matches('}'));
        tokens.push((format!("claim behind {member}"), forge.sign(&header, &behind)));
    }
    assert_all_refused(&world, INVALID, tokens).await;
}

#[tokio::test]
async fn duplicate_or_malformed_authorization_is_rejected() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    let target = products("?ids=a&siteId=RefArch");
    let bearer = format!("Bearer {token}");
    let send = async |fields: &[&str]| {
        let head: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        world.raw(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{head}Connection: close\r\n\r\n").as_bytes()).await
    };
    let authorization = format!("Authorization: {bearer}");
    assert!(send(&[&authorization]).await.starts_with("HTTP/1.1 200 "));
    assert!(send(&[&format!("aUTHORIZATION: bEARER  {token} ")]).await.starts_with("HTTP/1.1 200 "));
    world.simulator.clear_ledger();
    for second in [&authorization, "authorization: Basic YTpi", "AUTHORIZATION: Bearer x", "Authorization:"] {
        for pair in [[authorization.as_str(), second], [second, authorization.as_str()]] {
            let answer = send(&pair).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{second}: {answer}");
            assert!(answer.contains("x-shopper-gateway-error: credentials_conflicting"), "{second}: {answer}");
        }
    }
    for value in [
        format!("{bearer}, {bearer}"),
        format!("{bearer},{bearer}"),
        format!("{bearer} {token}"),
        format!("Bearer {bearer}"),
        format!("Bearer, {bearer}"),
        format!("Bearer\t{token}"),
        format!("Bearer{token}"),
        format!("Bearer={token}"),
        format!("Token {token}"),
        format!("DPoP {token}"),
        format!("Basic {token}"),
        token.clone(),
        "Bearer".to_owned(),
        "Bearer null".to_owned(),
    ] {
        let answer = send(&[&format!("Authorization: {value}")]).await;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{value}: {answer}");
        assert!(answer.contains("x-shopper-gateway-error: token_invalid"), "{value}: {answer}");
    }
    assert!(world.simulator.ledger().is_empty());
}

#[tokio::test]
async fn token_outside_authorization_header_is_ignored() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    let query = products(&format!("?ids=a&siteId=RefArch&access_token={token}&token={token}"));
    let form = world
        .post(&baskets("?siteId=RefArch"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("access_token={token}"));
    let mut requests = vec![world.get(&query), form];
    for name in ["cookie", "x-authorization", "proxy-authorization", "x-access-token", "authorization_"] {
        let value = format!("Bearer {token}; access_token={token}; cc-at={token}; cc-at_RefArch={token}");
        requests.push(world.get(&products("?ids=a&siteId=RefArch")).header(name, value));
    }
    for request in requests {
        let answer = world.send(request).await;
        assert_eq!(answer.refusal(), (401, "token_missing"));
        assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer realm="shopper-gateway""#));
    }
}

#[tokio::test]
async fn cached_verification_does_not_skip_authorization() {
    let world = World::start().await;
    let token = world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-products".into()]));
    for _ in 0..2 {
        assert_eq!(present(&world, &token).await.refusal(), (200, "none"));
    }
    world.simulator.clear_ledger();
    for (what, request, expected) in [
        ("scope", world.post(&baskets("?siteId=RefArch")), (403, "scope_missing")),
        ("site", world.get(&products("?ids=a&siteId=RefArchGlobal")), (403, "token_wrong_site")),
        (
            "organization",
            world.get(&products("?ids=a").replace(ORGANIZATION, OTHER_ORGANIZATION)),
            (403, "token_wrong_organization"),
        ),
        (
            "kind",
            world.get(&format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1")),
            (403, "token_kind_wrong"),
        ),
    ] {
        assert_eq!(world.send(request.bearer_auth(&token)).await.refusal(), expected, "{what}");
    }
    assert!(world.simulator.ledger().is_empty());
    let metrics = world.metrics().await;
    assert!(metrics.contains(r#"shopper_gateway_token_verifications_total{result="verified"} 1"#), "{metrics}");
    assert!(metrics.contains(r#"shopper_gateway_token_verifications_total{result="cached"} 5"#), "{metrics}");
}

#[tokio::test]
async fn cached_verification_covers_whole_token() {
    let (world, forge, claims) = world_with_forge().await;
    let good = forge.token(&claims);
    assert_eq!(present(&world, &good).await.refusal(), (200, "none"));
    let (input, signature) = good.rsplit_once('.').unwrap();
    let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
    bytes[63] ^= 1;
    let stranger = Forge::with_foreign_key(&world).token(&claims);
    assert_all_refused(
        &world,
        INVALID,
        named([("one bit", with_signature(input, &bytes)), ("a stranger's", stranger)]),
    )
    .await;
}

#[tokio::test]
async fn cached_verification_expires_with_token() {
    let world = World::start().await;
    // The leeway is 30 seconds; these tokens are a few seconds within it.
    let token = world.mint(|spec| spec.lifetime_seconds = Some(-25));
    assert_eq!(present(&world, &token).await.refusal().1, "none");
    eventually("the token has expired", async || present(&world, &token).await.refusal() == (401, "token_expired"))
        .await;
    assert_eq!(present(&world, &token).await.refusal(), (401, "token_expired"));
}

#[tokio::test]
async fn logout_ends_token_with_mirrored_signature() {
    let world = World::start().await;
    let token = world.log_in(PUBLIC_CLIENT, LOGIN, PASSWORD).await.token();
    let mirrored = forge::with_negated_s(&token);
    assert_ne!(mirrored, token);
    // ECDSA signatures are malleable: the holder of a token can compute a second valid signature.
    assert_eq!(present(&world, &mirrored).await.refusal(), (200, "none"));
    let logout = world.request(Method::DELETE, &customers("/customers/actions/logout?siteId=RefArch"));
    assert_eq!(world.send(logout.bearer_auth(&token)).await.status, 204);
    assert_all_refused(&world, INVALID, named([("the token", token), ("its twin", mirrored)])).await;
}

#[tokio::test]
async fn token_with_several_audiences_is_accepted_if_one_matches() {
    let (world, forge, claims) = world_with_forge().await;
    for audiences in [
        json!(["commercecloud/prod/zzrf_001"]),
        json!(["https://shop.example", "commercecloud/prod/zzrf_001"]),
        json!(["commercecloud/prod/zzrf_001", "commercecloud/prod/zzrf_002"]),
    ] {
        let token = forge.token(&changed(claims.clone(), "aud", audiences.clone()));
        assert_eq!(present(&world, &token).await.refusal(), (200, "none"), "{audiences}");
    }
    let order = format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1?siteId=RefArch");
    let good = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    let part = |position: usize| -> Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(good.split('.').nth(position).unwrap()).unwrap()).unwrap()
    };
    for audiences in [json!([CALLER_CLIENT]), json!(["aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", CALLER_CLIENT])] {
        let claims = changed(part(1), "aud", audiences.clone());
        let token = forge::account_manager_token(&world, &part(0), &claims);
        assert_eq!(world.send(world.get(&order).bearer_auth(token)).await.refusal().1, "none", "{audiences}");
    }
}
