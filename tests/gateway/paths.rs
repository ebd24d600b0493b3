//! Each path has one reading.
//!
//! The tests write to sockets themselves, because HTTP libraries normalize paths before they send them.

use shopper_gateway::gateway::policy::Operations;

use crate::world::{ORGANIZATION, PRIVATE_CLIENT, PUBLIC_CLIENT, World, baskets, customers, login_target, products};

const AMBIGUOUS: (&str, &str) = ("400", "request_ambiguous");

/// A segment that two parties could read differently, at any position.
const NASTY: [&str; 66] = [
    "",
    ".",
    "..",
    "%2e",
    "%2E",
    ".%2e",
    "%2e.",
    "%2e%2E",
    "%252e",
    "%252e%252e",
    "%25252e%25252e",
    "%25%32%65",
    "..;",
    ".;",
    "..;a=b",
    "%2e%2e;a=b",
    "..%3B",
    "..%3Ba=b",
    "..%253B",
    "..%2f",
    "..%2F..",
    "%2f..",
    "a%2f..%2fb",
    "a%2F.%2Fb",
    "..%252f",
    "a%252F..",
    "\\",
    "..\\",
    "a\\b",
    "%5c",
    "%5C",
    "..%5c",
    "a%5Cb",
    "%255c",
    "%25255C",
    "%00",
    "a%00",
    "%0a",
    "%0d%0a",
    "%09",
    "%1f",
    "%7f",
    "%2500",
    "%250a",
    "%c2%85",
    "%C2%9F",
    ";",
    ";a=b",
    "a;b=c",
    "%",
    "%2",
    "a%",
    "%zz",
    "%u002e",
    "%u2215",
    "%+2",
    "%c0%ae",
    "%c0%af",
    "%25c0%25af",
    "%e0%80%af",
    "%f0%80%80%af",
    "%ff",
    "%ed%a0%80",
    "%41",
    "%7e",
    "a%2Db",
];

/// Sends a request with exactly this target and a sufficient token.
async fn send(world: &World, token: &str, method: &str, target: &str) -> String {
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    world.raw(request.as_bytes()).await
}

/// Status and code of an answer.
fn refusal(answer: &str) -> (&str, &str) {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).unwrap_or("no answer");
    let code = answer.split("x-shopper-gateway-error: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    (status, code.unwrap_or("none"))
}

fn mint(world: &World) -> String {
    world.mint(|spec| spec.scopes = Some(vec!["sfcc.shopper-standard".into()]))
}

/// The target of the one request that arrived.
fn arrived(world: &World) -> String {
    let ledger = world.simulator.ledger();
    let [entry] = ledger.as_slice() else { panic!("{ledger:?}") };
    if entry.query.is_empty() { entry.path.clone() } else { format!("{}?{}", entry.path, entry.query) }
}

async fn world_with_policy(policy: &str) -> World {
    World::with(|config| {
        config.insert("policy".into(), policy.parse::<toml::Table>().unwrap().into());
    })
    .await
}

#[tokio::test]
async fn ambiguous_segment_is_rejected_in_any_mode() {
    for policy in ["", "unknown_operations = 'forward'", "mode = 'report'\nunknown_operations = 'forward'"] {
        let world = world_with_policy(policy).await;
        let token = mint(&world);
        assert_eq!(refusal(&send(&world, &token, "GET", &products("?ids=a")).await), ("200", "none"));
        world.simulator.clear_ledger();
        for nasty in NASTY {
            for target in [
                format!("/{nasty}{}", products("/a1")),
                products("/a1").replace("/v1/", &format!("/v1/{nasty}/")),
                products("/a1").replace(ORGANIZATION, nasty),
                products(&format!("/{nasty}")),
                products(&format!("/{nasty}/a1")),
                products(&format!("/a1/{nasty}")),
                customers(&format!("/customers/{nasty}/addresses/home")),
                format!("/custom/a/v1/organizations/{ORGANIZATION}/{nasty}"),
            ] {
                let answer = send(&world, &token, "GET", &target).await;
                assert_eq!(refusal(&answer), AMBIGUOUS, "{policy:?} {target}: {answer}");
            }
        }
        assert!(world.simulator.ledger().is_empty(), "{:?}", world.simulator.ledger());
    }
}

#[tokio::test]
async fn encoded_fixed_path_text_is_rejected() {
    let world = World::start().await;
    let token = mint(&world);
    world.simulator.clear_ledger();
    let path = products("/a1");
    for literal in ["product", "shopper-products", "v1", "organizations", "products"] {
        for position in 0..literal.len() {
            let byte = literal.as_bytes()[position];
            let spelled = format!("/{}%{byte:02x}{}/", &literal[..position], &literal[position + 1..]);
            let target = path.replacen(&format!("/{literal}/"), &spelled, 1);
            assert_ne!(target, path);
            assert_eq!(refusal(&send(&world, &token, "GET", &target).await), AMBIGUOUS, "{target}");
        }
    }
    for (from, to) in [
        ("/product/", "/product%2F"),
        ("/v1/", "%2Fv1/"),
        ("/products/", "%2fproducts/"),
        ("/products/", "/products%252F"),
        ("/products/", "/products%3Ba/"),
        ("/products/", "/products%20/"),
        ("_001/", "_001%2F"),
        ("_001/", "_001%20/"),
        ("_001/", "_001%25/"),
    ] {
        let target = path.replacen(from, to, 1);
        assert_ne!(target, path);
        let (status, code) = (send(&world, &token, "GET", &target).await, target);
        // A path that matches no operation in any reading is unknown.
        assert!(matches!(refusal(&status), AMBIGUOUS | ("404", "operation_unknown")), "{code}: {status}");
    }
    assert!(world.simulator.ledger().is_empty());
}

#[tokio::test]
async fn unescaped_special_characters_are_rejected() {
    let world = World::start().await;
    let token = mint(&world);
    world.simulator.clear_ledger();
    for character in ["\"", "[", "]", "{", "}", "|", "^", "\t", "\u{1}", "\u{7f}", "\u{85}", "ä", "／", "․․"] {
        for target in [
            products(&format!("/a{character}")),
            products(&format!("/{character}a")),
            products(&format!("/a1{character}/a")),
        ] {
            let answer = send(&world, &token, "GET", &target).await;
            assert_eq!(refusal(&answer), AMBIGUOUS, "{target:?}: {answer}");
        }
    }
    // The part after a `#` would be ignored.
    for target in [products("/a1#"), products("/a1#b"), products("#/../a"), products("/a1?b#c"), "/#".to_owned()] {
        assert_eq!(refusal(&send(&world, &token, "GET", &target).await), AMBIGUOUS, "{target}");
    }
    // Browsers send most ASCII characters of a query unescaped, and escape others.
    for query in ["?q=ä", "?siteId=RefArch&q=\u{85}", "?ä=1"] {
        assert_eq!(refusal(&send(&world, &token, "GET", &products(query)).await), AMBIGUOUS, "{query}");
    }
    assert!(world.simulator.ledger().is_empty());
}

#[tokio::test]
async fn escaped_values_are_forwarded_byte_for_byte() {
    let world = World::start().await;
    let token = mint(&world);
    for value in [
        "100%25",
        "a%2Cb",
        "a%2cb",
        "a%3Bb",
        "a%20b",
        "a,b",
        "%C3%84rzte%40home",
        "a+b",
        "!*'()",
        "%21%2A%27%28%29",
        "a$&=:@",
        "50%25ab%25",
        "a%252Cb",
        "~a_b-c.d",
        "..a",
        "...",
        "a..",
        "%23",
        "%3F",
        "%5B%5D",
        "%F0%9F%94%91",
    ] {
        for target in [
            products(&format!("/{value}?siteId=RefArch")),
            customers(&format!("/customers/abc/addresses/{value}?siteId=RefArch")),
            baskets(&format!("/{value}?siteId=RefArch")),
        ] {
            world.simulator.clear_ledger();
            let answer = send(&world, &token, "GET", &target).await;
            assert_eq!(refusal(&answer).1, "none", "{target}: {answer}");
            assert_eq!(arrived(&world), target);
        }
    }
    for query in [
        "q=%zz",
        "q=%",
        "q=%FF",
        "q=a|b&r=[1]&s={}",
        "q=a%2Fb",
        "q=../..",
        "q=a;b",
        "a&&b=&=c",
        "?",
        "siteid=1&SITEID=2",
    ] {
        world.simulator.clear_ledger();
        let target = products(&format!("?siteId=RefArch&{query}"));
        let answer = send(&world, &token, "GET", &target).await;
        assert_eq!(refusal(&answer).1, "none", "{target}: {answer}");
        assert_eq!(arrived(&world), target);
    }
}

#[tokio::test]
async fn encoded_slash_is_accepted_in_free_text_only() {
    let world = World::start().await;
    let token = mint(&world);
    let free = |value: &str| customers(&format!("/customers/abc/addresses/{value}?siteId=RefArch"));
    for value in ["a%2Fb", "a%2fb", "%2Fa", "a%2F", "a%2F%2Fb", "a%252Fb"] {
        world.simulator.clear_ledger();
        let answer = send(&world, &token, "GET", &free(value)).await;
        assert_eq!(refusal(&answer).1, "none", "{value}: {answer}");
        assert_eq!(arrived(&world), free(value));
        world.simulator.clear_ledger();
        for target in [
            customers(&format!("/customers/{value}")),
            customers(&format!("/customers/{value}/addresses/home")),
            baskets(&format!("/{value}")),
            products("").replace(ORGANIZATION, &format!("{ORGANIZATION}{value}")),
            format!("/custom/a/v1/organizations/{ORGANIZATION}/{value}"),
        ] {
            assert_eq!(refusal(&send(&world, &token, "GET", &target).await), AMBIGUOUS, "{target}");
        }
        assert!(world.simulator.ledger().is_empty());
    }
}

#[tokio::test]
async fn encoded_slash_never_reaches_another_operation() {
    let world = World::start().await;
    let token = mint(&world);
    world.simulator.clear_ledger();
    let operations = Operations::published().unwrap();
    let mut tried = 0;
    for operation in operations.iter() {
        let Some(last) = operation.parameters.last().filter(|last| last.free_text) else { continue };
        let depth = operation.template.matches('/').count();
        if last.position + 1 != depth {
            continue;
        }
        for other in operations.iter().filter(|other| other.method == operation.method) {
            let Some(below) = other.template.strip_prefix(&format!("{}/", operation.template)) else { continue };
            let fill = |template: &str| -> String {
                let segment = |segment: &str| match segment {
                    "{organizationId}" => ORGANIZATION.to_owned(),
                    "{tenantId}" => "zzrf_001".to_owned(),
                    other if other.starts_with('{') => "a1".to_owned(),
                    fixed => fixed.to_owned(),
                };
                template.split('/').map(segment).collect::<Vec<_>>().join("/")
            };
            for slash in ["%2F", "%2f", "%252F"] {
                let target = format!("{}{slash}{}", fill(&operation.template), fill(below).replace('/', slash));
                let answer = send(&world, &token, operation.method.as_str(), &target).await;
                assert_eq!(refusal(&answer), AMBIGUOUS, "{} as {}: {target}", other.name, operation.name);
                tried += 1;
            }
        }
    }
    assert!(tried > 20, "{tried}");
    assert!(world.simulator.ledger().is_empty());
}

#[tokio::test]
async fn duplicate_site_or_client_parameter_is_rejected_in_any_spelling() {
    for policy in ["", "mode = 'report'"] {
        let world = world_with_policy(policy).await;
        let token = mint(&world);
        world.simulator.clear_ledger();
        let slas = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/logout");
        for (name, twin) in [("siteId", "site%49d"), ("clientId", "clien%74Id"), ("client_id", "client%5fid")] {
            for query in [
                format!("{name}=RefArch&{name}=RefArchGlobal"),
                format!("{name}=RefArch&{name}=RefArch"),
                format!("{name}=RefArch&a=b&{twin}=RefArchGlobal"),
                format!("{twin}=RefArch&{twin}=RefArch"),
                format!("{name}=RefArch&{name}"),
                format!("{name}&{name}="),
                format!("{name}=&{name}=RefArch"),
                format!("{name}=%"),
                format!("{name}=%FF"),
                format!("{name}%=RefArch"),
            ] {
                for target in [
                    products(&format!("?{query}")),
                    format!("{slas}?{query}"),
                    format!("/mobify/slas/private{slas}?{query}"),
                ] {
                    assert_eq!(refusal(&send(&world, &token, "GET", &target).await), AMBIGUOUS, "{target}");
                }
                let login = format!("{}&{query}", login_target(PUBLIC_CLIENT));
                assert_eq!(refusal(&send(&world, &token, "POST", &login).await), AMBIGUOUS, "{login}");
            }
        }
        let two = products("?siteId=RefArch;siteId=RefArchGlobal");
        assert_eq!(
            refusal(&send(&world, &token, "GET", &two).await),
            AMBIGUOUS,
            "to a server that splits at semicolons"
        );
        for site in ["RefArch,RefArchGlobal", "../RefArch", "Ref%20Arch", "RefArch%00"] {
            let target = products(&format!("?siteId={site}"));
            assert_eq!(refusal(&send(&world, &token, "GET", &target).await), ("400", "request_invalid"), "{target}");
        }
        assert!(world.simulator.ledger().is_empty());
    }
}

#[tokio::test]
async fn storefront_prefix_reaches_slas_only() {
    let world = World::start().await;
    let token = mint(&world);
    let slas = format!("/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/jwks");
    let below = format!("/mobify/slas/private{slas}");
    world.simulator.clear_ledger();
    assert_eq!(refusal(&send(&world, &token, "GET", &below).await), ("200", "none"));
    assert_eq!(arrived(&world), slas);
    world.simulator.clear_ledger();
    for target in [
        "/mobify/slas/private/..".to_owned(),
        "/mobify/slas/private/".to_owned(),
        format!("/mobify/slas/private/..{slas}"),
        format!("/mobify/slas/private/../private{slas}"),
        format!("/mobify/slas/private/%2e%2e{}", products("")),
        format!("/mobify/slas/private/../../..{}", products("")),
        format!("/mobify/slas/private/{slas}"),
        format!("/mobify//slas/private{slas}"),
        format!("//mobify/slas/private{slas}"),
        format!("/mobify/slas/%70rivate{slas}"),
        format!("/mobify/slas/private%2F{}", &slas[1..]),
        format!("/mobify%2Fslas/private{slas}"),
        format!("/mobify/slas/private;a=b{slas}"),
        format!("/mobify/slas/private\\..{slas}"),
        format!("{below}/"),
        format!("{below}/.."),
        format!("{below}%2F..%2Ftoken"),
        below.replace("/oauth2/", "/oauth2%2F"),
        below.replace("/jwks", "/trusted-system/../jwks"),
        below.replace("/jwks", "/jwk%73"),
    ] {
        assert_eq!(refusal(&send(&world, &token, "GET", &target).await), AMBIGUOUS, "{target}");
    }
    for target in [
        "/mobify/slas/private".to_owned(),
        format!("/mobify/slas/privatex{slas}"),
        format!("/mobify/slas/PRIVATE{slas}"),
        format!("/mobify/slas{slas}"),
        format!("/a/mobify/slas/private{slas}"),
    ] {
        assert_eq!(refusal(&send(&world, &token, "GET", &target).await), ("404", "operation_unknown"), "{target}");
    }
    assert!(world.simulator.ledger().is_empty());
    // The path after the prefix is matched, so that the prefix cannot hide a client id.
    let twice = format!("{below}?client_id={PRIVATE_CLIENT}&client_id={PUBLIC_CLIENT}");
    assert_eq!(refusal(&send(&world, &token, "GET", &twice).await), AMBIGUOUS);
}
