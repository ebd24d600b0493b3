//! Tests of the whole table: each published operation is found by its own path, and only by that.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::{path_template::Part, *};

/// The number of operations of each API, published and added by the gateway.
const COUNTS: [(&str, usize); 35] = [
    ("assignments", 1),
    ("auth", 27 + 1),
    ("auth-admin", 14),
    ("campaigns", 10),
    ("catalogs", 32),
    ("cors", 3),
    ("coupons", 9),
    ("custom-apis", 1),
    ("customers", 15),
    ("gift-certificates", 5),
    ("granular-replications", 3),
    ("metrics", 9),
    ("orders", 14),
    ("preferences", 9),
    ("products", 36),
    ("promotions", 5),
    ("scapi-schemas", 2),
    ("shopper-availability", 1),
    ("shopper-baskets-v1", 37),
    ("shopper-baskets-v2", 38),
    ("shopper-configurations", 1),
    ("shopper-consents", 3),
    ("shopper-context", 4),
    ("shopper-customers", 33 + 4),
    ("shopper-experience", 9),
    ("shopper-gift-certificates", 1),
    ("shopper-orders", 13),
    ("shopper-payments", 2),
    ("shopper-products", 7),
    ("shopper-promotions", 2),
    ("shopper-search", 2),
    ("shopper-seo", 1),
    ("shopper-stores", 2),
    ("source-code-groups", 5),
    ("zones", 82),
];

const CUSTOMERS: &str = "/customer/shopper-customers/v1/organizations/f_ecom_zzrf_001/customers";

fn published() -> Operations {
    Operations::published().unwrap()
}

/// The name of the operation that a request finds.
fn found(operations: &Operations, method: &str, path: &str) -> Result<String, RouteError> {
    let path = RequestPath::parse(path)?;
    operations.find(&method.parse().unwrap(), &path).map(|found| found.operation.name.clone())
}

fn filled(operation: &Operation, value: impl Fn(&Parameter) -> String) -> String {
    operation.parameters.iter().fold(operation.template.clone(), |path, parameter| {
        path.replace(&format!("{{{}}}", parameter.name), &value(parameter))
    })
}

fn route(name: &str, method: Method, template: &str) -> CustomRoute {
    let security =
        vec![Security { kind: SecurityKind::Shopper, scopes: "c_loyalty".parse().unwrap(), roles: Vec::new() }];
    CustomRoute { name: name.to_owned(), method, template: template.to_owned(), security }
}

#[test]
fn published_table_has_all_operations() {
    let operations = published();
    assert_eq!(operations.iter().len(), 417 + 15 + 6 + 4 + 1);
    let mut counts = BTreeMap::new();
    for operation in operations.iter() {
        *counts.entry(operation.api.as_str()).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from(COUNTS));
}

#[test]
fn published_operation_is_found_by_its_own_path() {
    let operations = published();
    for operation in operations.iter() {
        let path = filled(operation, |parameter| format!("{}-%C3%A4%25%20%3B1", parameter.name));
        let path = RequestPath::parse(&path).unwrap();
        let found = operations.find(&operation.method, &path).unwrap();
        assert!(Arc::ptr_eq(found.operation, operation), "{}", operation.name);
        for parameter in &operation.parameters {
            let expected = format!("{}-ä% ;1", parameter.name);
            assert_eq!(found.parameter(&parameter.name), Some(expected.as_str()), "{}", operation.name);
        }
        assert_eq!(found.parameter("nothing"), None);
    }
}

#[test]
fn published_path_names_its_tenant() {
    for operation in published().iter() {
        let tenant = if operation.api == "auth-admin" { "tenantId" } else { "organizationId" };
        assert!(operation.parameters.iter().any(|parameter| parameter.name == tenant), "{}", operation.name);
    }
}

#[test]
fn published_operations_have_distinct_methods_and_paths() {
    let mut shapes = HashSet::new();
    for operation in published().iter() {
        let shape = filled(operation, |_| "{}".to_owned());
        assert!(shapes.insert((operation.method.clone(), shape)), "{}", operation.name);
    }
}

#[test]
fn published_operation_without_credential_is_slas_or_deprecated_login() {
    for operation in published().iter() {
        let open = matches!(operation.kind, OperationKind::Slas | OperationKind::DeprecatedLogin);
        assert!(!operation.security.is_empty() || open, "{}", operation.name);
        assert_eq!(operation.kind == OperationKind::Slas, operation.api == "auth", "{}", operation.name);
    }
    let kinds = |kind| published().iter().filter(|operation| operation.kind == kind).count();
    assert_eq!(kinds(OperationKind::DeprecatedLogin), 1);
    assert_eq!(kinds(OperationKind::DeprecatedLogout), 1);
    assert_eq!(kinds(OperationKind::DeprecatedTrustedSystemLogin), 2);
}

#[test]
fn published_security_alternatives_are_separate() {
    let operations = published();
    let glob = OperationGlob::parse("orders.updateOrder").unwrap();
    let update = operations.matching(&glob).next().unwrap();
    let kinds: Vec<_> = update.security.iter().map(|security| security.kind).collect();
    assert_eq!(kinds, [SecurityKind::System, SecurityKind::ShopperTsob]);
    let mut counts: HashMap<SecurityKind, usize> = HashMap::new();
    for security in operations.iter().flat_map(|operation| &operation.security) {
        *counts.entry(security.kind).or_default() += 1;
    }
    // Published, plus the deprecated operations', plus those of four more APIs and of current SDKs.
    let expected = [
        (SecurityKind::Shopper, 136 + 1 + 1),
        (SecurityKind::ShopperTsob, 2),
        (SecurityKind::ShopperTaob, 10),
        (SecurityKind::System, 220 + 14 + 2 + 20),
        (SecurityKind::SystemByRole, 14),
    ];
    assert_eq!(counts, HashMap::from(expected));
}

#[test]
fn published_parameter_that_identifies_is_not_free_text() {
    let strict = ["organizationId", "tenantId", "basketId", "customerId", "orderNo", "usid", "clientId", "zoneId"];
    for operation in published().iter() {
        for parameter in &operation.parameters {
            assert!(!(parameter.free_text && strict.contains(&parameter.name.as_str())), "{}", operation.name);
        }
    }
}

#[test]
fn published_operation_with_a_large_body_is_a_bulk_operation() {
    let operations = published();
    let large: Vec<&str> =
        operations.iter().filter(|own| own.body_limit.is_some()).map(|own| own.name.as_str()).collect();
    assert_eq!(
        large,
        [
            "orders.createOrders",
            "customers.unassignCustomerGroupMembers",
            "customers.assignCustomerGroupMembers",
            "coupons.updateCouponCodes",
            "catalogs.removeProductsFromExclusionList",
            "catalogs.addProductsToExclusionList",
            "products.updateProduct",
            "products.createProduct",
        ]
    );
    assert!(operations.iter().filter_map(|own| own.body_limit).all(|limit| limit == 5 * 1024 * 1024));
}

#[test]
fn published_operations_are_sorted_by_path_and_method() {
    let operations = published();
    let keys: Vec<_> = operations.iter().map(|own| (own.template.clone(), own.method.to_string())).collect();
    assert!(keys.is_sorted());
}

#[test]
fn path_that_matches_fixed_text_and_parameter_finds_fixed_text() {
    let operations = published();
    let name = |method, path: &str| found(&operations, method, &format!("{CUSTOMERS}{path}"));
    assert_eq!(name("GET", "/external-profile").unwrap(), "shopper-customers.getExternalProfile");
    assert_eq!(name("GET", "/abc").unwrap(), "shopper-customers.getCustomer");
    assert_eq!(name("PATCH", "/external-profile").unwrap(), "shopper-customers.updateCustomer");
    assert_eq!(name("GET", "/external-profile/baskets").unwrap(), "shopper-customers.getCustomerBaskets");
    assert_eq!(name("POST", "/actions/login").unwrap(), "shopper-customers.authorizeCustomer");
    assert_eq!(name("DELETE", "/actions/logout").unwrap(), "shopper-customers.invalidateCustomerAuth");
    assert_eq!(name("POST", "/trusted-system/actions/login").unwrap(), "shopper-customers.authorizeTrustedSystem");
    assert_eq!(
        found(&operations, "POST", "/customer/shopper-customers/v1/organizations/o/trusted-system/actions/login")
            .unwrap(),
        "shopper-customers.authorizeTrustedSystem"
    );
}

#[test]
fn request_without_an_operation_gets_the_reason() {
    let operations = published();
    let error = |method, path: &str| found(&operations, method, path).unwrap_err();
    assert_eq!(error("GET", "/"), RouteError::Unknown);
    assert_eq!(error("GET", "/customer"), RouteError::Unknown);
    assert_eq!(error("GET", &format!("{CUSTOMERS}/a/b/c/d")), RouteError::Unknown);
    assert_eq!(error("GET", CUSTOMERS), RouteError::MethodNotPublished);
    assert_eq!(error("OPTIONS", &format!("{CUSTOMERS}/external-profile")), RouteError::MethodNotPublished);
    assert_eq!(error("GET", &format!("{CUSTOMERS}/..")), RouteError::Ambiguous(PathError::DotSegment));
    assert_eq!(error("GET", &CUSTOMERS.replace("customers/", "Customers/")), RouteError::Unknown);
}

#[test]
fn encoded_slash_outside_of_free_text_is_rejected() {
    let operations = published();
    let name = |method, path: &str| found(&operations, method, path);
    let slash = Err(RouteError::Ambiguous(PathError::EncodedSlash));
    assert_eq!(
        name("GET", &format!("{CUSTOMERS}/c/addresses/Work%2FOffice")).unwrap(),
        "shopper-customers.getCustomerAddress"
    );
    assert_eq!(name("GET", &format!("{CUSTOMERS}/c%2Fd/addresses/Home")), slash);
    assert_eq!(name("GET", &format!("{CUSTOMERS}/c%252Fd/addresses/Home")), slash);
    assert_eq!(name("GET", &CUSTOMERS.replace("f_ecom", "f%2Fecom")), slash);
    assert_eq!(name("GET", &format!("{CUSTOMERS}%2Fexternal-profile")), slash);
    assert_eq!(name("GET", "/customer%2Fshopper-customers"), slash);
    for operation in operations.iter() {
        for own in &operation.parameters {
            let value = |other: &Parameter| if own == other { "x%2Fy" } else { "x" }.to_owned();
            let result = name(operation.method.as_str(), &filled(operation, value));
            assert_eq!(result.is_ok(), own.free_text, "{} {}", operation.name, own.name);
        }
    }
}

#[test]
fn encoded_slash_that_leads_to_another_operation_is_rejected() {
    let operations = published();
    let products = "/product/shopper-products/v1/organizations/f_ecom_zzrf_001/products";
    let name = |path: &str| found(&operations, "GET", &format!("{products}/{path}"));
    assert_eq!(name("a%2Fb").unwrap(), "shopper-products.getProduct");
    for path in ["a%2Fprices", "a%2F%2Fprices", "a%252Fprices", "%2Fa%252Fprices"] {
        assert_eq!(name(path), Err(RouteError::Ambiguous(PathError::SecondReading)), "{path}");
    }
}

#[test]
fn escaped_fixed_text_is_rejected_even_if_a_parameter_matches() {
    let base = "/custom/a/v1/organizations/{organizationId}";
    let routes = [
        route("a.fixed", Method::GET, &format!("{base}/x+y")),
        route("a.open", Method::GET, &format!("{base}/{{id}}")),
        route("a.deep", Method::GET, &format!("{base}/{{id}}/x+y")),
    ];
    let operations = published().with_routes(routes).unwrap();
    let name = |path: &str| found(&operations, "GET", &format!("/custom/a/v1/organizations/o/{path}"));
    assert_eq!(name("x+y").unwrap(), "a.fixed");
    assert_eq!(name("x%2Bz").unwrap(), "a.open");
    assert_eq!(name("x+y/x+y").unwrap(), "a.deep");
    for path in ["x%2By", "z/x%2By", "x+y/x%2By", "x%2By/z"] {
        assert_eq!(name(path), Err(RouteError::Ambiguous(PathError::EncodedLiteral)), "{path}");
    }
}

#[test]
fn custom_route_is_found_by_its_path() {
    let template = "/custom/loyalty/v1/organizations/{organizationId}/points/{id}";
    let routes = [route("loyalty.points", Method::GET, template), route("addPoints", Method::POST, template)];
    let operations = published().with_routes(routes).unwrap();
    let path = "/custom/loyalty/v1/organizations/f_ecom_zzrf_001/points/7";
    assert_eq!(found(&operations, "GET", path).unwrap(), "loyalty.points");
    assert_eq!(found(&operations, "POST", path).unwrap(), "custom.addPoints");
    let path = RequestPath::parse(path).unwrap();
    let found = operations.find(&Method::GET, &path).unwrap();
    assert_eq!(found.operation.kind, OperationKind::Merchant);
    assert_eq!(found.parameter("id"), Some("7"));
    assert!(operations.iter().map(|own| &own.template).is_sorted());
}

#[test]
fn invalid_custom_routes_are_all_reported_with_their_positions() {
    let base = "/custom/a/v1/organizations/{organizationId}";
    let orders = "/checkout/shopper-orders/v1/organizations/{o}/orders/{n}";
    let mut open = route("a.open", Method::GET, &format!("{base}/open"));
    open.security.clear();
    let routes = [
        route("a.one", Method::GET, &format!("{base}/{{id}}")),
        route("a.two", Method::GET, &format!("{base}/{{other}}")),
        route("a.three", Method::GET, &orders.replace("{o}", "{organizationId}")),
        route("a.one", Method::PUT, base),
        route("shopper-orders.getOrder", Method::GET, &format!("{base}/a/b")),
        route("a b.c", Method::GET, base),
        route("a.four", Method::GET, "/custom/{organization}"),
        route("a.five", Method::GET, &format!("{base}/%41")),
        open,
    ];
    let errors = published().with_routes(routes).unwrap_err();
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "routes[1]: a.two can never be reached: a.one has the same method and path",
            "routes[2]: a.three can never be reached: shopper-orders.getOrder has the same method and path",
            "routes[3]: an operation named a.one exists already",
            "routes[4]: an operation named shopper-orders.getOrder exists already",
            "routes[5]: the name must be {api}.{operation}, with letters, digits, '-' and '_' on both sides",
            "routes[6]: the path must contain {organizationId}",
            "routes[7]: a fixed segment of the path may contain only letters, digits and -._~!$&'()*+,=:@, and must not be a dot segment",
            "routes[8]: a.open has no credential in security, or one without scopes or roles",
        ]
    );
}

#[test]
fn glob_without_a_version_matches_all_versions() {
    let operations = published();
    let count = |glob: &str| operations.matching(&OperationGlob::parse(glob).unwrap()).count();
    assert_eq!(count("shopper-baskets.*"), 37 + 38);
    assert_eq!(count("shopper-baskets-v1.*"), 37);
    assert_eq!(count("shopper-baskets-v2.createBasket"), 1);
    assert_eq!(count("shopper-baskets.createBasket"), 2);
    assert_eq!(count("orders.*"), 14);
    assert_eq!(count("shopper-customers.authorizeTrustedSystem"), 2);
    assert_eq!(count("shopper-baskets-v3.*"), 0);
    assert_eq!(count("shopper-orders"), 0);
    assert_eq!(count("*"), operations.iter().len());
    assert_eq!(count("*.getOrder"), 2);
}

#[test]
fn lookup_in_a_large_table_finds_each_route() {
    let many = |n: usize| format!("/custom/api{n}/v1/organizations/{{organizationId}}/things/{{id}}");
    let routes = (0..10_000).map(|n| route(&format!("api{n}.thing"), Method::GET, &many(n)));
    let operations = published().with_routes(routes).unwrap();
    for n in [0, 5_000, 9_999] {
        let path = format!("/custom/api{n}/v1/organizations/o/things/1");
        assert_eq!(found(&operations, "GET", &path).unwrap(), format!("api{n}.thing"));
    }
    assert_eq!(found(&operations, "GET", "/custom/api10000/v1/organizations/o/things/1"), Err(RouteError::Unknown));
}

/// The specification of `find` for paths without encoded slashes: the matching template with fixed text furthest to the left.
fn specified(operations: &[&Operation], method: &Method, path: &RequestPath<'_>) -> Result<String, RouteError> {
    let segments = path.segments();
    let fits = |part: &Part<'_>, segment: &Segment<'_>| match part {
        Part::Literal(text) => segment.decoded() == *text,
        Part::Parameter => true,
    };
    let mut best: Option<(Vec<bool>, &Operation)> = None;
    let mut other_method = false;
    for operation in operations {
        let parts = Template::parse(&operation.template, &[]).unwrap().parts;
        let fitting = parts.iter().zip(segments).take_while(|(part, segment)| fits(part, segment)).count();
        let escaped = |n: usize| parts[n] != Part::Parameter && segments[n].is_escaped();
        if (0..fitting).any(escaped) {
            return Err(PathError::EncodedLiteral.into());
        }
        if fitting < parts.len() || parts.len() != segments.len() {
            continue;
        }
        if operation.method != *method {
            other_method = true;
            continue;
        }
        let rank: Vec<bool> = parts.iter().map(|part| *part == Part::Parameter).collect();
        if best.as_ref().is_none_or(|(least, _)| rank < *least) {
            best = Some((rank, operation));
        }
    }
    match best {
        Some((_, operation)) => Ok(operation.name.clone()),
        None if other_method => Err(RouteError::MethodNotPublished),
        None => Err(RouteError::Unknown),
    }
}

fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
}

proptest! {
    #[test]
    fn lookup_in_the_published_table_meets_its_specification(
        method in method(),
        choice in any::<prop::sample::Index>(),
        donor in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        cut in 0..4_usize,
    ) {
        static TABLE: std::sync::LazyLock<Operations> = std::sync::LazyLock::new(published);
        let all: Vec<&Operation> = TABLE.iter().map(Arc::as_ref).collect();
        // An operation's path in which a segment is replaced by one of another operation's.
        let (own, other) = (choice.get(&all), donor.get(&all));
        let sample = filled(own, |_| "x%2Cy".to_owned());
        let mut segments: Vec<&str> = sample.split('/').skip(1).collect();
        let donated: Vec<&str> = other.template.split('/').skip(1).filter(|text| !text.starts_with('{')).collect();
        let position = place.index(segments.len());
        match cut {
            0 => segments[position] = place.get::<&str>(&donated),
            1 => segments[position] = "z",
            2 => segments.truncate(position.max(1)),
            _ => {}
        }
        let path = format!("/{}", segments.join("/"));
        let path = RequestPath::parse(&path).unwrap();
        for method in [&method, &own.method] {
            let found = TABLE.find(method, &path).map(|found| found.operation.name.clone());
            prop_assert_eq!(found, specified(&all, method, &path));
        }
    }

    #[test]
    fn lookup_in_any_table_meets_its_specification(
        templates in prop::collection::vec((method(), prop::collection::vec(0..4_usize, 1..6)), 1..12),
        paths in prop::collection::vec(prop::collection::vec(0..4_usize, 1..6), 1..12),
    ) {
        let mut operations = Operations { ordered: Vec::new(), trie: Trie::default() };
        for (n, (method, parts)) in templates.iter().enumerate() {
            let part = |(place, part): (usize, &usize)| match part {
                0 => "/a".to_owned(),
                1 => "/b+c".to_owned(),
                _ => format!("/{{p{place}}}"),
            };
            let template: String =
                std::iter::once("/{organizationId}".to_owned()).chain(parts.iter().enumerate().map(part)).collect();
            let _ = operations.add(route(&format!("t.t{n}"), method.clone(), &template).into_operation().unwrap());
        }
        let all: Vec<&Operation> = operations.iter().map(Arc::as_ref).collect();
        for parts in paths {
            let path: String = parts.iter().map(|part| ["/a", "/b+c", "/b%2Bc", "/d"][*part]).collect();
            let path = format!("/o{path}");
            let path = RequestPath::parse(&path).unwrap();
            for method in [Method::GET, Method::POST] {
                let found = operations.find(&method, &path).map(|found| found.operation.name.clone());
                prop_assert_eq!(found, specified(&all, &method, &path));
            }
        }
    }
}
