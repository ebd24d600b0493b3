//! Account Manager: the client credentials grant and its error responses.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::caller::*;

const CLIENT: &str = "aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa";
const CALLER: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";

async fn ask(caller: &Caller, client: &str, secret: &str, grant: &str, scope: &str) -> Reply {
    let request = caller.request(Method::POST, "/dwsso/oauth2/access_token");
    let form = [("grant_type", grant), ("scope", scope)];
    read(request.basic_auth(client, Some(secret)).form(&form).send().await.unwrap()).await
}

#[tokio::test]
async fn access_token_matches_published_format() {
    let caller = Caller::new().await;
    let scope = "SALESFORCE_COMMERCE_API:zzrf_001 sfcc.orders";
    let (status, answer) = ask(&caller, CLIENT, "account-manager-secret", "client_credentials", scope).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&answer["expires_in"], &answer["token_type"], &answer["scope"]),
        (&json!(1799), &json!("Bearer"), &json!(scope))
    );
    let token = text(&answer, "access_token");
    assert_eq!(part(token, 0)["alg"], "RS256");
    let claims = claims(token);
    assert_eq!(claims["iss"], format!("{}/dwsso/oauth2", caller.simulator.url()));
    assert_eq!(claims["iss"], caller.simulator.account_manager_issuer());
    assert_eq!((&claims["sub"], &claims["aud"]), (&json!(CLIENT), &json!(CLIENT)));
    assert_eq!(claims["scope"], json!(["SALESFORCE_COMMERCE_API:zzrf_001", "sfcc.orders"]));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 1800);
}

#[tokio::test]
async fn rejections_name_oauth_error() {
    let caller = Caller::new().await;
    let (secret, grant) = ("caller-secret", "client_credentials");
    for (client, secret, grant, scope, status, error) in [
        (CALLER, "wrong", grant, "", 401, "invalid_client"),
        ("nobody", secret, grant, "", 401, "invalid_client"),
        (CALLER, secret, grant, "sfcc.catalogs", 400, "invalid_scope"),
        (CALLER, secret, grant, "SALESFORCE_COMMERCE_API:zzrf_002", 400, "invalid_scope"),
        (CLIENT, "account-manager-secret", grant, "sfcc.made-up", 400, "invalid_scope"),
        (CALLER, secret, "password", "", 400, "unsupported_grant_type"),
    ] {
        let (actual, answer) = ask(&caller, client, secret, grant, scope).await;
        assert_eq!((actual.as_u16(), text(&answer, "error")), (status, error), "{client} {scope}");
    }
}
