//! The ledger, the control API, the wire, starting and stopping.

use reqwest::{Method, StatusCode};
use salesforce_simulator::{Behaviour, Seed};
use serde_json::{Value, json};

use crate::caller::*;

async fn control(caller: &Caller, method: Method, path: &str, body: Value) -> Reply {
    let request = caller.request(method, &format!("/__simulator/{path}"));
    let request = if body.is_null() { request } else { request.json(&body) };
    read(request.send().await.unwrap()).await
}

#[tokio::test]
async fn ledger_records_flow_of_each_request() {
    let caller = Caller::new().await;
    let shopper = caller.registered().await;
    caller.refresh(PUBLIC, text(&shopper, "refresh_token"), None).await;
    caller.basket(text(&shopper, "access_token")).await;
    caller.get(&format!("{BASKETS}/x?siteId=RefArch"), "bad").await;
    for (service, flow) in [
        ("slas", "login"),
        ("slas", "token:authorization_code_pkce"),
        ("slas", "token:refresh_token"),
        ("api", "shopper-baskets-v1.createBasket"),
        ("api", "shopper-baskets-v1.getBasket"),
    ] {
        assert_eq!(caller.simulator.count(service, flow), 1, "{flow}");
    }
    let entries = caller.simulator.ledger();
    let sequences: Vec<_> = entries.iter().map(|entry| entry.sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    let refresh = &entries[2];
    assert!(refresh.body.contains("grant_type=refresh_token"));
    assert_eq!((refresh.body_length, refresh.status), (refresh.body.len(), Some(200)));
    let last = &entries[4];
    assert_eq!((last.query.as_str(), last.status), ("siteId=RefArch", Some(401)));
    assert_eq!(last.header("authorization"), Some("Bearer bad"));
    caller.simulator.clear_ledger();
    assert!(caller.simulator.ledger().is_empty());
    caller.guest().await;
    assert_eq!(caller.simulator.count("slas", "authorize:guest"), 1);
    assert_eq!(caller.simulator.ledger()[0].sequence, 6);
}

#[tokio::test]
async fn full_ledger_drops_oldest_entries() {
    let caller = Caller::new().await;
    caller.simulator.set(|behaviour| behaviour.ledger_entries = 2);
    for endpoint in ["jwks", "userinfo", "nothing"] {
        caller.slas(Method::GET, endpoint).send().await.unwrap();
    }
    let entries = caller.simulator.ledger();
    let flows: Vec<_> = entries.iter().map(|entry| (entry.flow.as_str(), entry.status)).collect();
    assert_eq!(flows, [("userinfo", Some(400)), ("nothing", Some(404))]);
}

#[tokio::test]
async fn control_api_sets_behaviour_faults_keys_and_tokens() {
    let caller = Caller::new().await;
    let (_, overview) = control(&caller, Method::GET, "", Value::Null).await;
    assert_eq!(overview["url"], caller.simulator.url());
    let (status, settings) = control(&caller, Method::PATCH, "behaviour", json!({"shopper_token_seconds": 9})).await;
    assert_eq!((status, &settings["shopper_token_seconds"]), (StatusCode::OK, &json!(9)));
    let expected = Behaviour { shopper_token_seconds: 9, ..Behaviour::default() };
    assert_eq!(caller.simulator.behaviour(), expected);
    let unknown = control(&caller, Method::PATCH, "behaviour", json!({"shoper_token_seconds": 9})).await;
    assert_eq!(unknown.0, StatusCode::BAD_REQUEST);
    assert_eq!(caller.simulator.behaviour(), expected);

    let fault = json!({"service": "slas", "flow": "jwks", "remaining": 1, "effect": {"kind": "status", "code": 502}});
    assert_eq!(control(&caller, Method::POST, "faults", fault).await.0, StatusCode::CREATED);
    assert_eq!(caller.slas(Method::GET, "jwks").send().await.unwrap().status(), StatusCode::BAD_GATEWAY);
    assert_eq!(control(&caller, Method::GET, "faults", Value::Null).await.1, json!([]));
    for kind in [json!({"kind": "hang"}), json!({"kind": "reset", "at": "mid_body"}), json!({"kind": "truncate"})] {
        let made = control(&caller, Method::POST, "faults", json!({"effect": kind})).await;
        assert_eq!(made.0, StatusCode::CREATED);
    }
    assert_eq!(control(&caller, Method::DELETE, "faults", Value::Null).await.0, StatusCode::NO_CONTENT);

    let (_, ledger) = control(&caller, Method::GET, "ledger?flow=jwks", Value::Null).await;
    assert_eq!((&ledger["total"], &ledger["entries"][0]["status"]), (&json!(1), &json!(502)));
    assert_eq!(control(&caller, Method::DELETE, "ledger", Value::Null).await.0, StatusCode::NO_CONTENT);
    assert!(caller.simulator.ledger().is_empty());

    let before = caller.simulator.slas_kid();
    assert_eq!(control(&caller, Method::POST, "keys/rotate", Value::Null).await.0, StatusCode::OK);
    assert_ne!(caller.simulator.slas_kid(), before);

    let (status, minted) =
        control(&caller, Method::POST, "tokens", json!({"shopper": {"site": "RefArchGlobal"}})).await;
    assert_eq!(status, StatusCode::CREATED);
    let token = text(&minted, "token");
    assert!(text(&claims(token), "isb").ends_with("chid:RefArchGlobal"));
    assert_eq!(caller.get(&format!("{BASKETS}/none"), token).await.0, StatusCode::NOT_FOUND);
    let system = json!({"account_manager": {"client_id": "x", "tenant": "zzrf_001", "scopes": ["sfcc.orders"]}});
    assert_eq!(control(&caller, Method::POST, "tokens", system).await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn http2_without_tls_is_accepted() {
    let caller = Caller::new().await;
    let http = reqwest::Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let answer = http.get(format!("{}/__simulator/", caller.simulator.url())).send().await.unwrap();
    assert_eq!((answer.version(), answer.status()), (reqwest::Version::HTTP_2, StatusCode::OK));
}

#[tokio::test]
async fn stop_closes_connections_and_frees_port() {
    let caller = Caller::new().await;
    let address = caller.simulator.address();
    caller.guest().await;
    let Caller { simulator, http } = caller;
    simulator.stop().await;
    assert!(http.get(format!("http://{address}/__simulator/")).send().await.is_err());
    let again = salesforce_simulator::start(address, Seed::default()).await.unwrap();
    assert_eq!(again.address(), address);
}

#[tokio::test]
async fn seed_with_unknown_key_is_rejected() {
    assert!(Seed::parse("organizations = []\nsomething = 1").is_err());
    let seed = Seed::parse("organizations = [{id = \"f_ecom_a_1\", sites = [\"S\"]}]").unwrap();
    assert_eq!(seed.organizations[0].tenant(), "a_1");
}
