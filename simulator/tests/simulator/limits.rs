//! Request limits of SLAS.

use reqwest::{Method, StatusCode};

use crate::caller::*;

#[tokio::test]
async fn jwks_and_openid_configuration_share_25_requests_a_minute() {
    let caller = Caller::new().await;
    for _ in 0..24 {
        assert_eq!(caller.slas(Method::GET, "jwks").send().await.unwrap().status(), StatusCode::OK);
    }
    let configuration = caller.slas(Method::GET, ".well-known/openid-configuration");
    assert_eq!(configuration.send().await.unwrap().status(), StatusCode::OK);
    let refused = caller.slas(Method::GET, "jwks").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    let other = caller.request(Method::GET, "/shopper/auth/v1/organizations/f_ecom_zzrf_002/oauth2/jwks");
    assert_eq!(other.send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn slas_rate_limit_headers_count_requests() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.slas_requests_per_minute = 3);
    let form = [("grant_type", "client_credentials"), ("channel_id", "RefArch")];
    for left in ["2", "1", "0"] {
        let answer = caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["x-ratelimit-1m-limit"], "3");
        assert_eq!(answer.headers()["x-ratelimit-1m-remaining"], left);
        assert_eq!(answer.headers()["x-ratelimit-5m-limit"], "15");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let reset: u64 = answer.headers()["x-ratelimit-5m-reset"].to_str().unwrap().parse().unwrap();
        assert!((now..=now + 301).contains(&reset), "{reset} is no time in the next five minutes");
    }
    let refused = caller.token(&form).basic_auth(PRIVATE, Some(SECRET)).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.headers().contains_key("retry-after"));
}
