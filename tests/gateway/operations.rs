//! The policy table, operation by operation: the credentials that each operation accepts, and that no others are
//! accepted.
//!
//! The requests of a test are sent to one gateway, several at a time. The number of a request is its correlation id, by
//! which the test finds it in the simulator's ledger.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{StreamExt, stream};
use reqwest::Method;
use salesforce_simulator::LedgerEntry;
use shopper_gateway::gateway::policy::{Operation, OperationKind, Operations, Security, SecurityKind};

use crate::{
    callers::CALLER_SECRET,
    world::{
        Answer, CALLER_CLIENT, LOGIN, ORGANIZATION, OTHER_ORGANIZATION, PASSWORD, World, baskets, customers, products,
    },
};

/// An Account Manager client that a caller without permissions presents.
const CALLER_WITHOUT_OPERATIONS: &str = "cccccccc-cccc-4ccc-8ccc-cccccccccccc";
/// An Account Manager client that no caller presents.
const UNCONFIGURED_CLIENT: &str = "dddddddd-dddd-4ddd-8ddd-dddddddddddd";
/// Requests in flight at a time.
const CONCURRENT: usize = 8;

/// A request and its expected outcome.
struct Case {
    what: String,
    operation: Arc<Operation>,
    credential: Option<String>,
    /// The expected error; absent if the request must be forwarded.
    refusal: Option<(u16, &'static str)>,
}

/// Configures one caller with all operations and one with none.
async fn world() -> World {
    World::with(|config| {
        let callers: toml::Table = format!(
            r#"
            [[callers]]
            name = "everything"
            account_manager_client_id = "{CALLER_CLIENT}"
            may = ["system"]
            organizations = ["{ORGANIZATION}"]
            operations = ["*"]
            [[callers]]
            name = "idle"
            account_manager_client_id = "{CALLER_WITHOUT_OPERATIONS}"
            may = ["on_behalf"]
            organizations = ["{ORGANIZATION}"]
            operations = ["*"]
            "#
        )
        .parse()
        .unwrap();
        config.insert("callers".into(), callers["callers"].clone());
    })
    .await
}

/// The published operations that are forwarded. The deprecated logins have tests of their own.
fn published() -> Vec<Arc<Operation>> {
    let forwarded =
        |operation: &&Arc<Operation>| matches!(operation.kind, OperationKind::Standard | OperationKind::Slas);
    let operations: Vec<_> = Operations::published().unwrap().iter().filter(forwarded).cloned().collect();
    assert_eq!(operations.len(), 439, "438 are published or in current SDKs, one more is used");
    operations
}

fn target(operation: &Operation) -> String {
    let segment = |segment: &str| match segment {
        "{organizationId}" => ORGANIZATION.to_owned(),
        "{tenantId}" => "zzrf_001".to_owned(),
        other if other.starts_with('{') => "a1".to_owned(),
        fixed => fixed.to_owned(),
    };
    operation.template.split('/').map(segment).collect::<Vec<_>>().join("/") + "?siteId=RefArch"
}

fn shopper(world: &World, scopes: impl IntoIterator<Item = String>, marks: &[&str]) -> String {
    world.mint(|spec| {
        spec.scopes = Some(scopes.into_iter().collect());
        spec.marks = marks.iter().map(|mark| ((*mark).to_owned(), "marked".to_owned())).collect();
    })
}

fn system(world: &World, client: &str, scopes: impl IntoIterator<Item = String>) -> String {
    let scopes: Vec<String> = scopes.into_iter().collect();
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    world.simulator.mint_account_manager_token(client, &scopes, "zzrf_001", 600)
}

/// A token of a client with roles. Its tenant may be left out.
fn role_token(world: &World, client: &str, tenant: &str, scopes: &[&str]) -> String {
    world.simulator.mint_account_manager_token(client, scopes, tenant, 600)
}

/// A token of the kind that an alternative requires.
fn token_for(world: &World, kind: SecurityKind, scopes: impl IntoIterator<Item = String>) -> String {
    match kind {
        SecurityKind::Shopper => shopper(world, scopes, &[]),
        SecurityKind::ShopperTsob => shopper(world, scopes, &["tsob"]),
        SecurityKind::ShopperTaob => shopper(world, scopes, &["taob"]),
        SecurityKind::System => system(world, CALLER_CLIENT, scopes),
        SecurityKind::SystemByRole => role_token(world, CALLER_CLIENT, "", &[]),
    }
}

fn scopes(security: &Security) -> BTreeSet<String> {
    security.scopes.iter().map(|scope| scope.as_str().to_owned()).collect()
}

fn has(operation: &Operation, kind: SecurityKind) -> bool {
    operation.security.iter().any(|security| security.kind == kind)
}

/// Sends every case and compares it with the response and the ledger.
async fn check(world: &World, cases: Vec<Case>) {
    world.simulator.clear_ledger();
    let send = async |number: usize, case: &Case| -> Answer {
        let mut request = world.request(case.operation.method.as_str().parse().unwrap(), &target(&case.operation));
        request = request.header("correlation-id", number.to_string());
        if !matches!(case.operation.method.as_str(), "GET" | "DELETE") {
            request = request.header("content-type", "application/json").body("{}");
        }
        if let Some(credential) = &case.credential {
            request = request.bearer_auth(credential);
        }
        world.send(request).await
    };
    let answers: Vec<Answer> = stream::iter(cases.iter().enumerate())
        .map(|(number, case)| send(number, case))
        .buffered(CONCURRENT)
        .collect()
        .await;
    let ledger: HashMap<String, LedgerEntry> = world
        .simulator
        .ledger()
        .into_iter()
        .filter_map(|entry| Some((entry.header("correlation-id")?.to_owned(), entry)))
        .collect();
    for (number, (case, answer)) in cases.iter().zip(answers).enumerate() {
        let what = format!("{} {}: {}", case.operation.name, case.what, answer.text());
        let upstream = ledger.get(&number.to_string());
        match case.refusal {
            Some(refusal) => {
                assert_eq!(answer.refusal(), refusal, "{what}");
                assert!(upstream.is_none(), "{what}: it was sent upstream");
            }
            None => {
                assert_eq!(answer.refusal().1, "none", "{what}");
                let refused = ["is unauthorized", "have no permissions", "not for this"];
                assert!(!refused.iter().any(|words| what.contains(words)), "{what}: the API itself refused it");
                let entry = upstream.unwrap_or_else(|| panic!("{what}: it did not arrive"));
                assert_eq!(format!("{}?{}", entry.path, entry.query), target(&case.operation), "{what}");
                assert_eq!(entry.method, case.operation.method.as_str(), "{what}");
                assert_eq!(answer.status.as_u16(), entry.status.unwrap(), "{what}");
                if entry.service == "api" {
                    assert!(entry.flow.ends_with(&format!(".{}", case.operation.id)), "{what}: {}", entry.flow);
                }
            }
        }
    }
}

#[tokio::test]
async fn operation_accepts_each_of_its_scopes_alone() {
    let world = world().await;
    let mut cases = Vec::new();
    for operation in published() {
        for security in &operation.security {
            for scope in scopes(security) {
                cases.push(Case {
                    what: format!("with {} {scope}", security.kind),
                    operation: Arc::clone(&operation),
                    credential: Some(token_for(&world, security.kind, [scope])),
                    refusal: None,
                });
            }
        }
    }
    assert!(cases.len() > 640, "{} combinations", cases.len());
    check(&world, cases).await;
}

#[tokio::test]
async fn operation_rejects_all_other_scopes_together() {
    let world = world().await;
    let operations = published();
    let all_of = |system: bool| -> BTreeSet<String> {
        let alternatives = operations.iter().flat_map(|operation| &operation.security);
        alternatives.filter(|security| (security.kind == SecurityKind::System) == system).flat_map(scopes).collect()
    };
    let (all_system, all_shopper) = (all_of(true), all_of(false));
    let mut cases = Vec::new();
    for operation in &operations {
        for security in operation.security.iter().filter(|security| security.kind != SecurityKind::SystemByRole) {
            let of_system = security.kind == SecurityKind::System;
            let accepted: BTreeSet<String> = operation
                .security
                .iter()
                .filter(|other| (other.kind == SecurityKind::System) == of_system)
                .flat_map(scopes)
                .collect();
            let all = if of_system { &all_system } else { &all_shopper };
            let near_misses = accepted.iter().flat_map(|scope| [format!("{scope}x"), format!("x{scope}")]);
            let others: BTreeSet<String> = all.iter().cloned().chain(near_misses).collect();
            let others = others.difference(&accepted).cloned();
            cases.push(Case {
                what: format!("with every other scope as {}", security.kind),
                operation: Arc::clone(operation),
                credential: Some(token_for(&world, security.kind, others)),
                refusal: Some((403, "scope_missing")),
            });
            cases.push(Case {
                what: format!("with no scope as {}", security.kind),
                operation: Arc::clone(operation),
                credential: Some(token_for(&world, security.kind, [])),
                refusal: Some((403, "scope_missing")),
            });
        }
    }
    check(&world, cases).await;
}

#[tokio::test]
async fn operation_by_role_accepts_scopeless_tokens_of_its_callers_only() {
    let world = world().await;
    let judged_by_role = |operation: &Arc<Operation>| has(operation, SecurityKind::SystemByRole);
    let (by_roles, by_scopes): (Vec<_>, Vec<_>) = published().into_iter().partition(judged_by_role);
    assert_eq!(by_roles.len(), 14);
    assert!(by_roles.iter().all(|operation| operation.api == "auth-admin" && operation.security.len() == 1));
    let case = |operation: &Arc<Operation>, what: &str, credential: String, refusal: Option<(u16, &'static str)>| {
        Case { what: what.to_owned(), operation: Arc::clone(operation), credential: Some(credential), refusal }
    };
    let mut cases = Vec::new();
    for operation in &by_roles {
        for (what, tenant, scopes, refusal) in [
            ("with no scope", "", &[][..], None),
            ("with another scope", "", &["mail", "roles"], None),
            ("with this tenant's scope", "zzrf_001", &[], None),
            ("with another tenant's scope", "zzrf_002", &[], Some((403, "token_wrong_organization"))),
        ] {
            cases.push(case(operation, what, role_token(&world, CALLER_CLIENT, tenant, scopes), refusal));
        }
        let (idle, nobody) =
            (role_token(&world, CALLER_WITHOUT_OPERATIONS, "", &[]), role_token(&world, UNCONFIGURED_CLIENT, "", &[]));
        cases.push(case(operation, "of a caller without permission", idle, Some((403, "caller_not_allowed"))));
        cases.push(case(operation, "of an unknown client", nobody, Some((401, "caller_rejected"))));
    }
    for operation in by_scopes.iter().filter(|operation| operation.accepts_system()) {
        let listed: BTreeSet<String> = operation.security.iter().flat_map(scopes).collect();
        let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
        let without_tenant = role_token(&world, CALLER_CLIENT, "", &listed);
        cases.push(case(operation, "without tenant", without_tenant, Some((403, "token_wrong_organization"))));
    }
    assert!(cases.len() > 300, "{} combinations", cases.len());
    check(&world, cases).await;
}

#[tokio::test]
async fn operation_by_role_exchanges_basic_credentials_without_scope() {
    let world = world().await;
    let target = "/shopper/auth-admin/v1/tenants/zzrf_001/clients";
    let answer = world.send(world.get(target).basic_auth(CALLER_CLIENT, Some(CALLER_SECRET))).await;
    assert_eq!(answer.refusal().1, "none", "{}", answer.text());
    let [asked] =
        &world.simulator.ledger().into_iter().filter(|entry| entry.flow == "access_token").collect::<Vec<_>>()[..]
    else {
        panic!("one exchange")
    };
    assert_eq!(asked.body, "grant_type=client_credentials");
    let sent = world.forwarded("auth-admin.retrieveClients").pop().unwrap();
    assert!(sent.header("authorization").unwrap().starts_with("Bearer "));
    let wrong = world.send(world.get(target).basic_auth(CALLER_CLIENT, Some("wrong"))).await;
    assert_eq!(wrong.refusal(), (401, "caller_rejected"));
}

#[tokio::test]
async fn operation_rejects_other_kinds_of_token() {
    let world = world().await;
    let mut cases = Vec::new();
    for operation in published() {
        if operation.security.is_empty() {
            continue;
        }
        let accepted: BTreeSet<String> = operation.security.iter().flat_map(scopes).collect();
        let case = |what: &str, credential: Option<String>, refusal: (u16, &'static str)| Case {
            what: what.to_owned(),
            operation: Arc::clone(&operation),
            credential,
            refusal: Some(refusal),
        };
        cases.push(case("without token", None, (401, "token_missing")));
        let kind_wrong = (403, "token_kind_wrong");
        let (shoppers, tsob, taob) = (
            has(&operation, SecurityKind::Shopper),
            has(&operation, SecurityKind::ShopperTsob),
            has(&operation, SecurityKind::ShopperTaob),
        );
        if !shoppers {
            cases.push(case("without mark", Some(shopper(&world, accepted.clone(), &[])), kind_wrong));
        }
        if !shoppers && !tsob {
            cases.push(case("with tsob", Some(shopper(&world, accepted.clone(), &["tsob"])), kind_wrong));
        }
        if !shoppers && !taob {
            cases.push(case("with taob", Some(shopper(&world, accepted.clone(), &["taob"])), kind_wrong));
        }
        let everything = system(&world, CALLER_CLIENT, accepted.clone());
        if operation.accepts_system() {
            let idle = system(&world, CALLER_WITHOUT_OPERATIONS, accepted.clone());
            let nobody = system(&world, UNCONFIGURED_CLIENT, accepted.clone());
            cases.push(case("of a caller without permission", Some(idle), (403, "caller_not_allowed")));
            cases.push(case("of an unknown client", Some(nobody), (401, "caller_rejected")));
        } else {
            cases.push(case("with a system token", Some(everything), kind_wrong));
        }
    }
    assert!(cases.len() > 1500, "{} combinations", cases.len());
    check(&world, cases).await;
}

#[tokio::test]
async fn slas_operations_are_reachable_with_and_without_prefix() {
    let world = World::start().await;
    let own: Vec<_> = published().into_iter().filter(|operation| operation.security.is_empty()).collect();
    assert_eq!(own.len(), 23);
    for operation in own {
        for prefix in ["", "/mobify/slas/private"] {
            world.simulator.clear_ledger();
            let path = target(&operation);
            let request = world.request(operation.method.as_str().parse().unwrap(), &format!("{prefix}{path}"));
            // A login needs the shopper's own credentials.
            let is_login = operation.id == "authenticateCustomer";
            let request = if is_login { request.basic_auth(LOGIN, Some(PASSWORD)) } else { request };
            let needs_credential = ["getUserInfo", "logoutCustomer", "introspectToken", "revokeToken"];
            let needs_credential = needs_credential.contains(&operation.id.as_str());
            let request = if needs_credential { request.bearer_auth("a") } else { request };
            let answer = world.send(request.header("content-type", "application/x-www-form-urlencoded")).await;
            assert_eq!(answer.refusal().1, "none", "{} {}", operation.name, answer.text());
            let ledger = world.simulator.ledger();
            let [entry] = ledger.as_slice() else { panic!("{}: {ledger:?}", operation.name) };
            assert_eq!(format!("{}?{}", entry.path, entry.query), path, "{}", operation.name);
            assert_eq!((entry.service.as_str(), entry.method.as_str()), ("slas", operation.method.as_str()));
        }
    }
}

#[tokio::test]
async fn unlisted_slas_paths_are_rejected_under_any_policy() {
    for change in
        ["", "unknown_operations = 'forward'", "mode = 'report'", "mode = 'report'\nunknown_operations = 'forward'"]
    {
        let world = World::with(|config| {
            config.insert("policy".into(), change.parse::<toml::Table>().unwrap().into());
        })
        .await;
        let token = world.mint(|_| {});
        world.simulator.clear_ledger();
        let base = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2");
        for (method, path) in [
            (Method::POST, base.clone()),
            (Method::OPTIONS, base.clone()),
            (Method::OPTIONS, format!("{base}/anything")),
            (Method::HEAD, format!("{base}/anything")),
            (Method::POST, format!("{base}/token/more")),
            (Method::POST, format!("{base}/TOKEN")),
            (Method::POST, format!("{base}/anything")),
            (Method::POST, format!("{base}/trusted-agent/token/extra")),
            (Method::GET, format!("{base}/.well-known/oauth-authorization-server")),
            (Method::GET, "/shopper/auth".to_owned()),
            (Method::GET, "/shopper/auth/v1".to_owned()),
            (Method::POST, base.replace("/v1/", "/v2/") + "/token"),
            (Method::POST, base.replace("/shopper/", "/Shopper/") + "/token"),
            (Method::POST, base.replace("/auth/", "/AUTH/") + "/token"),
            (Method::POST, format!("/mobify/slas/private{base}/anything")),
            (Method::GET, format!("/mobify/slas/private{}", products(""))),
            (Method::DELETE, format!("/mobify/slas/private{}", customers("/customers/actions/logout"))),
            (Method::GET, format!("/mobify/slas/private/custom/a/v1/organizations/{ORGANIZATION}/b")),
            (Method::GET, "/mobify/slas/private/shopper/auth-admin/v1/tenants/zzrf_001".to_owned()),
            (Method::POST, format!("/mobify/slas/private/mobify/slas/private{base}/token")),
        ] {
            let answer = world.send(world.request(method.clone(), &path).bearer_auth(&token)).await;
            assert_eq!(answer.refusal(), (403, "operation_not_allowed"), "{change:?} {method} {path}");
        }
        for (method, path) in [
            (Method::GET, format!("{base}/token")),
            (Method::PUT, format!("{base}/token")),
            (Method::POST, format!("{base}/jwks")),
            (Method::GET, format!("/mobify/slas/private{base}/token")),
        ] {
            let answer = world.send(world.request(method.clone(), &path).bearer_auth(&token)).await;
            assert_eq!(answer.refusal(), (405, "method_not_allowed"), "{change:?} {method} {path}");
        }
        assert!(world.simulator.ledger().is_empty(), "{change:?}: {:?}", world.simulator.ledger());
    }
}

#[tokio::test]
async fn unknown_operation_returns_404() {
    let world = World::start().await;
    let token = world.mint(|_| {});
    world.simulator.clear_ledger();
    for (method, path) in [
        (Method::GET, "/".to_owned()),
        (Method::GET, format!("/custom/a/v1/organizations/{ORGANIZATION}/b")),
        (Method::GET, products("/a/b/c")),
        (Method::HEAD, products("/a/b/c")),
        (Method::OPTIONS, products("/a/b/c")),
        (Method::GET, products("").replace("/product/", "/Product/")),
        (Method::GET, products("").replace("/v1/", "/v2/")),
        (Method::GET, products("").replace(ORGANIZATION, "f_ecom_zzrf_009")),
        (Method::GET, products("").replace(ORGANIZATION, "f_ecom_ZZRF_001")),
        (Method::GET, products("").replace(ORGANIZATION, "zzrf_001")),
        (Method::GET, "/shopper/auth-admin/v1/tenants/zzrf_009".to_owned()),
        (Method::GET, "/__simulator/ledger".to_owned()),
        (Method::POST, "/dwsso/oauth2/access_token".to_owned()),
        (Method::GET, "/mobify/slas".to_owned()),
        (Method::GET, "/mobify/proxy/api".to_owned() + &products("")),
    ] {
        let answer = world.send(world.request(method.clone(), &path).bearer_auth(&token)).await;
        assert_eq!(answer.refusal(), (404, "operation_unknown"), "{method} {path}");
    }
    assert!(world.simulator.ledger().is_empty());
}

#[tokio::test]
async fn unknown_operation_can_be_forwarded_with_token_of_its_organization() {
    let world = World::with(|config| {
        config.insert("policy".into(), "unknown_operations = 'forward'".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let own = |organization: &str| format!("/custom/loyalty/v1/organizations/{organization}/points?siteId=RefArch");
    let token = world.mint(|spec| spec.scopes = Some(Vec::new()));
    let system = world.simulator.mint_account_manager_token(CALLER_CLIENT, &["sfcc.orders"], "zzrf_001", 600);
    let answer = world.send(world.get(&own(ORGANIZATION)).bearer_auth(&token)).await;
    assert_eq!(answer.refusal(), (404, "none"), "the simulator knows no such API");
    assert_eq!(world.forwarded("unknown").len(), 1);

    world.simulator.clear_ledger();
    for (what, target, credential, expected) in [
        ("no token", own(ORGANIZATION), None, (401, "token_missing")),
        ("a bad token", own(ORGANIZATION), Some("a.b.c"), (401, "token_invalid")),
        ("a system token", own(ORGANIZATION), Some(system.as_str()), (403, "token_kind_wrong")),
        ("another organization", own(OTHER_ORGANIZATION), Some(token.as_str()), (403, "token_wrong_organization")),
        (
            "another site",
            own(ORGANIZATION).replace("RefArch", "RefArchGlobal"),
            Some(&token),
            (403, "token_wrong_site"),
        ),
        ("an organization not served", own("f_ecom_zzrf_009"), Some(&token), (404, "operation_unknown")),
        ("no organization", "/custom/loyalty/v1/points".into(), Some(&token), (404, "operation_unknown")),
        ("a known operation without scope", products("?siteId=RefArch"), Some(&token), (403, "scope_missing")),
    ] {
        let mut request = world.get(&target);
        if let Some(credential) = credential {
            request = request.bearer_auth(credential);
        }
        assert_eq!(world.send(request).await.refusal(), expected, "{what}");
    }
    assert!(world.forwarded("unknown").is_empty());
}

#[tokio::test]
async fn report_mode_counts_and_forwards_rejections_silently() {
    let world = World::with(|config| {
        config.insert("policy".into(), "mode = 'report'".parse::<toml::Table>().unwrap().into());
    })
    .await;
    let no_scope = world.mint(|spec| spec.scopes = Some(Vec::new()));
    let elsewhere = world.mint(|spec| spec.site = "RefArchGlobal".into());
    let target = products("?ids=a&siteId=RefArch");
    let unknown = format!("/custom/loyalty/v1/organizations/{ORGANIZATION}/points");
    world.simulator.clear_ledger();
    let requests = [
        ("scope_missing", world.get(&target).bearer_auth(&no_scope)),
        ("token_wrong_site", world.get(&target).bearer_auth(&elsewhere)),
        ("token_missing", world.get(&target)),
        ("token_invalid", world.get(&target).bearer_auth("a.b.c")),
        (
            "token_kind_wrong",
            world.get(&format!("/checkout/orders/v1/organizations/{ORGANIZATION}/orders/1")).bearer_auth(&no_scope),
        ),
        (
            "caller_not_allowed",
            world.get(&target).bearer_auth(&no_scope).header("X-On-Behalf-Of", "shopper@example.com"),
        ),
        ("operation_unknown", world.get(&unknown).bearer_auth(&no_scope)),
    ];
    let expected = requests.len();
    for (code, request) in requests {
        let answer = world.send(request).await;
        assert_eq!(answer.header("x-shopper-gateway-error"), None, "{code}");
        let counted = format!("shopper_gateway_refusals_total{{code=\"{code}\"}} 1");
        assert!(world.metrics().await.contains(&counted), "{code} is not counted");
    }
    let ledger = world.simulator.ledger();
    assert_eq!(ledger.len(), expected, "{ledger:?}");
    assert!(ledger.iter().all(|entry| entry.header("x-on-behalf-of").is_none()));

    // A request with more than one reading is refused too.
    world.simulator.clear_ledger();
    let two = format!("GET {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n");
    assert!(world.raw(two.as_bytes()).await.contains("x-shopper-gateway-error: credentials_conflicting"));
    for (request, expected) in [
        (world.get(&products("//")), (400, "request_ambiguous")),
        (world.get(&products("?siteId=a&siteId=b")), (400, "request_ambiguous")),
        (world.get(&products("?siteId=%2F")), (400, "request_invalid")),
        (world.get(&products(&format!("?ids={}", "a".repeat(9000)))), (414, "request_too_large")),
        (world.get("/custom/loyalty/v1/points"), (404, "operation_unknown")),
        (world.get(&products("").replace(ORGANIZATION, "f_ecom_zzrf_009")), (404, "operation_unknown")),
        (world.post(&baskets("?siteId=RefArch")).body(vec![b' '; 1024 * 1024 + 1]), (413, "request_too_large")),
    ] {
        assert_eq!(world.send(request).await.refusal(), expected);
    }
    assert!(world.simulator.ledger().is_empty());
}

#[tokio::test]
async fn custom_route_is_checked_like_published_operation() {
    let world = World::with(|config| {
        let added: toml::Table = format!(
            r#"
            [[routes]]
            name = "loyalty.getPoints"
            method = "GET"
            path = "/custom/loyalty/v1/organizations/{{organizationId}}/points/{{id}}"
            security = "shopper"
            scopes = ["c_loyalty", "c_loyalty_rw"]
            [[routes]]
            name = "loyalty.getOwnPoints"
            method = "GET"
            path = "/custom/loyalty/v1/organizations/{{organizationId}}/points/own"
            security = "shopper"
            scopes = ["c_own"]
            [[routes]]
            name = "loyalty.importPoints"
            method = "POST"
            path = "/custom/loyalty/v1/organizations/{{organizationId}}/points"
            security = "system"
            scopes = ["c_loyalty_rw"]
            [[callers]]
            name = "loyalty"
            account_manager_client_id = "{CALLER_CLIENT}"
            may = ["system"]
            organizations = ["{ORGANIZATION}"]
            operations = ["loyalty.importPoints"]
            "#
        )
        .parse()
        .unwrap();
        for key in ["routes", "callers"] {
            config.insert(key.into(), added[key].clone());
        }
    })
    .await;
    let target = |rest: &str| format!("/custom/loyalty/v1/organizations/{ORGANIZATION}/points{rest}");
    let with = |scopes: &[&str]| shopper(&world, scopes.iter().map(|scope| (*scope).to_owned()), &[]);
    let system = |scope: &str| system(&world, CALLER_CLIENT, [scope.to_owned()]);
    world.simulator.clear_ledger();
    let forwarded = (404, "none");
    for (what, request, expected) in [
        ("one scope", world.get(&target("/1")).bearer_auth(with(&["c_loyalty"])), forwarded),
        ("the other", world.get(&target("/1")).bearer_auth(with(&["c_loyalty_rw"])), forwarded),
        ("fixed text before a parameter", world.get(&target("/own")).bearer_auth(with(&["c_own"])), forwarded),
        ("the caller", world.post(&target("")).bearer_auth(system("c_loyalty_rw")), forwarded),
        (
            "another scope",
            world.get(&target("/1")).bearer_auth(with(&["sfcc.shopper-products"])),
            (403, "scope_missing"),
        ),
        ("no scope", world.get(&target("/1")).bearer_auth(with(&[])), (403, "scope_missing")),
        ("no token", world.get(&target("/1")), (401, "token_missing")),
        (
            "the parameter's scope for fixed text",
            world.get(&target("/own")).bearer_auth(with(&["c_loyalty"])),
            (403, "scope_missing"),
        ),
        (
            "a system for a shopper",
            world.get(&target("/1")).bearer_auth(system("c_loyalty")),
            (403, "token_kind_wrong"),
        ),
        (
            "a shopper for a system",
            world.post(&target("")).bearer_auth(with(&["c_loyalty_rw"])),
            (403, "token_kind_wrong"),
        ),
        ("a system without scope", world.post(&target("")).bearer_auth(system("c_loyalty")), (403, "scope_missing")),
        (
            "another method",
            world.request(Method::DELETE, &target("/1")).bearer_auth(with(&["c_loyalty"])),
            (405, "method_not_allowed"),
        ),
        ("a path of more", world.get(&target("/1/2")).bearer_auth(with(&["c_loyalty"])), (404, "operation_unknown")),
        (
            "an encoded slash",
            world.get(&target("/1%2F2")).bearer_auth(with(&["c_loyalty"])),
            (400, "request_ambiguous"),
        ),
    ] {
        assert_eq!(world.send(request).await.refusal(), expected, "{what}");
    }
    assert_eq!(world.forwarded("unknown").len(), 4);
}

#[tokio::test]
async fn custom_route_under_slas_base_is_rejected() {
    use shopper_gateway::config::Settings;
    let table = |path: &str| {
        let mut table: toml::Table = crate::world::configuration("http://127.0.0.1:1").parse().unwrap();
        let route = format!(
            "[[routes]]\nname = 'a.b'\nmethod = 'GET'\npath = '{path}'\nsecurity = 'shopper'\nscopes = ['c_x']"
        );
        table.insert("routes".into(), route.parse::<toml::Table>().unwrap()["routes"].clone());
        table.to_string()
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    for path in [
        "/{family}/{api}/v1/organizations/{organizationId}/oauth2/{what}",
        "/SHOPPER/{api}/v1/organizations/{organizationId}/oauth2/{what}",
        "/{family}/Auth/v1/organizations/{organizationId}",
        "/shopper/auth/v1/organizations/{organizationId}/oauth2/unlisted",
    ] {
        std::fs::write(&file, table(path)).unwrap();
        let errors = Settings::load_with(&file, []).unwrap_err();
        assert_eq!(
            errors.errors.iter().map(|error| error.path.as_str()).collect::<Vec<_>>(),
            ["routes[0].path"],
            "{path}"
        );
    }
}
