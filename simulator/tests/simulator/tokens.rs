//! Tokens and keys as an independent verifier sees them.

use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use reqwest::{Method, StatusCode};
use salesforce_simulator::ShopperTokenSpec;
use serde_json::{Map, Value, json};

use crate::caller::*;

/// Verifies with the published keys only.
fn verify(jwks: &Value, token: &str, audience: &str) -> Result<Value, String> {
    let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(jwks.clone()).unwrap();
    let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
    let key = set.find(header.kid.as_deref().unwrap()).ok_or("unknown kid")?;
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[audience]);
    validation.leeway = 0;
    let data = jsonwebtoken::decode(token, &DecodingKey::from_jwk(key).unwrap(), &validation);
    data.map(|data| data.claims).map_err(|error| error.to_string())
}

#[tokio::test]
async fn shopper_token_verifies_with_published_keys() {
    let caller = Caller::new().await;
    let tokens = caller.guest().await;
    let token = text(&tokens, "access_token");
    let (_, jwks) = read(caller.slas(Method::GET, "jwks").send().await.unwrap()).await;
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2);
    let claims = verify(&jwks, token, "commercecloud/prod/zzrf_001").unwrap();
    let header = part(token, 0);
    for (name, value) in [("alg", "ES256"), ("typ", "jwt"), ("jku", "slas/prod/zzrf_001")] {
        assert_eq!(header[name], value);
    }
    for name in ["kid", "ver", "clv"] {
        assert!(header[name].is_string(), "{name}");
    }
    for (name, value) in [("iss", "slas/prod/zzrf_001"), ("aut", "GUID"), ("ctx", "slas"), ("sty", "User")] {
        assert_eq!(claims[name], value);
    }
    assert_eq!(claims["ist"], 1);
    let number = |name: &str| claims[name].as_i64().unwrap();
    assert_eq!(number("exp") - number("iat"), 1800);
    assert_eq!(number("iat") - number("nbf"), 30);
    let subject = format!("cc-slas::zzrf_001::scid:{PUBLIC}::usid:{}", text(&tokens, "usid"));
    assert_eq!(text(&claims, "sub"), subject);
    let scopes: Vec<_> = text(&claims, "scp").split(' ').collect();
    assert!(scopes.contains(&"sfcc.shopper-baskets-orders.rw"));
    assert!(!scopes.contains(&"sfcc.shopper-standard") && !scopes.contains(&"sfcc.orders.rw"));
}

#[tokio::test]
async fn key_rotation_signs_with_announced_key_and_keeps_old_tokens_valid() {
    let caller = Caller::new().await;
    let old = text(&caller.guest().await, "access_token").to_owned();
    let announced = caller.simulator.slas_jwks()["keys"][1]["kid"].clone();
    caller.simulator.rotate_keys();
    assert_eq!(announced, caller.simulator.slas_kid());
    let jwks = caller.simulator.slas_jwks();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 3);
    let new = text(&caller.guest().await, "access_token").to_owned();
    assert_eq!(part(&new, 0)["kid"], announced);
    for token in [&old, &new] {
        verify(&jwks, token, "commercecloud/prod/zzrf_001").unwrap();
        assert_eq!(caller.get(&format!("{BASKETS}/none"), token).await.0, StatusCode::NOT_FOUND);
    }
    caller.simulator.rotate_keys();
    assert_eq!(caller.get(&format!("{BASKETS}/none"), &old).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn minted_token_follows_its_spec() {
    let caller = Caller::new().await;
    let token = caller.simulator.mint_shopper_token(ShopperTokenSpec {
        organization: "f_ecom_zzrf_002".into(),
        site: "SiteGenesis".into(),
        display_name: "A: B".into(),
        registered_customer_id: Some("abRegistered".into()),
        marks: vec![("tsob".into(), "ts_ext_on_behalf_of".into())],
        scopes: Some(vec!["sfcc.shopper-standard".into()]),
        lifetime_seconds: Some(-5),
        do_not_track: Some(true),
        header: Map::from_iter([("typ".to_owned(), json!("other"))]),
        claims: Map::from_iter([("sty".to_owned(), Value::Null), ("extra".to_owned(), json!(7))]),
        ..ShopperTokenSpec::default()
    });
    let claims = claims(&token);
    assert_eq!(part(&token, 0)["typ"], "other");
    assert_eq!(claims["iss"], "slas/prod/zzrf_002");
    assert_eq!(claims["scp"], "sfcc.shopper-standard");
    assert_eq!((&claims["extra"], claims.get("sty")), (&json!(7), None));
    assert!(text(&claims, "isb").contains("::uidn:A%3A B::"));
    assert!(text(&claims, "isb").ends_with("::rcid:abRegistered::tsob:ts_ext_on_behalf_of::chid:SiteGenesis"));
    let error = verify(&caller.simulator.slas_jwks(), &token, "commercecloud/prod/zzrf_002").unwrap_err();
    assert_eq!(error, "ExpiredSignature");
}

#[tokio::test]
async fn private_key_pem_signs_tokens_that_published_keys_verify() {
    let caller = Caller::new().await;
    let claims = json!({"aud": "test", "exp": 4_102_444_800_u64});
    let ec = jsonwebtoken::EncodingKey::from_ec_pem(caller.simulator.slas_private_key_pem().as_bytes()).unwrap();
    let mut header = jsonwebtoken::Header::new(Algorithm::ES256);
    header.kid = Some(caller.simulator.slas_kid());
    let token = jsonwebtoken::encode(&header, &claims, &ec).unwrap();
    verify(&caller.simulator.slas_jwks(), &token, "test").unwrap();

    let pem = caller.simulator.account_manager_private_key_pem();
    let rsa = jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()).unwrap();
    let mut header = jsonwebtoken::Header::new(Algorithm::RS256);
    header.kid = Some(caller.simulator.account_manager_kid());
    let token = jsonwebtoken::encode(&header, &claims, &rsa).unwrap();
    verify(&caller.simulator.account_manager_jwks(), &token, "test").unwrap();
}

#[tokio::test]
async fn account_manager_token_verifies_with_published_keys() {
    let caller = Caller::new().await;
    let token = caller.simulator.mint_account_manager_token("someone", &["sfcc.orders"], "zzrf_001", 60);
    let (_, jwks) = read(caller.request(Method::GET, "/dwsso/oauth2/connect/jwk_uri").send().await.unwrap()).await;
    let claims = verify(&jwks, &token, "someone").unwrap();
    assert_eq!(claims["scope"], json!(["SALESFORCE_COMMERCE_API:zzrf_001", "sfcc.orders"]));
}

#[tokio::test]
async fn openid_configuration_points_to_jwks() {
    let caller = Caller::new().await;
    let request = caller.slas(Method::GET, ".well-known/openid-configuration");
    let (_, configuration) = read(request.send().await.unwrap()).await;
    let (status, jwks) = read(caller.http.get(text(&configuration, "jwks_uri")).send().await.unwrap()).await;
    assert_eq!((status, jwks), (StatusCode::OK, caller.simulator.slas_jwks()));
}

#[tokio::test]
async fn token_scopes_and_lifetime_follow_behaviour() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| {
        behaviour.shopper_scopes = Some(vec!["sfcc.shopper-standard".into()]);
        behaviour.shopper_token_seconds = 7;
    });
    let tokens = caller.guest().await;
    let claims = claims(text(&tokens, "access_token"));
    assert_eq!((&claims["scp"], &tokens["expires_in"]), (&json!("sfcc.shopper-standard"), &json!(7)));
}

/// The claim and the response field `dnt` of a token response.
fn dnt(tokens: &Value) -> (Value, Value) {
    (claims(text(tokens, "access_token"))["dnt"].clone(), tokens["dnt"].clone())
}

#[tokio::test]
async fn dnt_claim_is_that_of_the_request_and_false_by_default() {
    let caller = Caller::new().await;
    let form = |dnt: &'static str| [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("dnt", dnt)];
    for (asked, claim, field) in [("", "0", Value::Null), ("false", "0", json!("false")), ("true", "1", json!("true"))]
    {
        let request = caller.token(&form(asked)).basic_auth(PRIVATE, Some(SECRET));
        let (status, tokens) = read(request.send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{tokens}");
        assert_eq!(dnt(&tokens), (json!(claim), field), "{asked}");
    }
    // Also where no parameter exists: after a login the code exchange has it.
    assert_eq!(dnt(&caller.registered().await), (json!("0"), Value::Null));
}

#[tokio::test]
async fn refresh_without_dnt_resets_the_claim() {
    let caller = Caller::new().await;
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch"), ("dnt", "true")];
    let tokens = read(caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await.1;
    assert_eq!(dnt(&tokens).0, "1");
    let refresh_token = text(&tokens, "refresh_token");
    for (asked, claim) in [("", "0"), ("true", "1"), ("", "0")] {
        let form = [
            ("grant_type", "refresh_token"),
            ("refresh_token", refresh_token),
            ("client_id", PRIVATE),
            ("channel_id", "RefArch"),
            ("dnt", asked),
        ];
        let (status, renewed) = read(caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap()).await;
        assert_eq!(status, StatusCode::OK, "{renewed}");
        assert_eq!(dnt(&renewed).0, claim, "{asked}");
    }
}
