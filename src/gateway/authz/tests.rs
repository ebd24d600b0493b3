//! Tables of senders and requests, with the result of each.

use http::Method;

use super::*;
use crate::{
    config::{self, CallerIdentity},
    gateway::{
        callers::Callers,
        policy::{OperationKind, Security},
        request::{PathPrefix, RequiredBody},
    },
    store::RevocationKeys,
    types::{OrganizationId, Usid},
    verify::{shopper::Delegation, system_token::SystemClient},
};

const ORGANIZATION: &str = "f_ecom_zzrf_001";

fn organization() -> OrganizationId {
    ORGANIZATION.parse().unwrap()
}

fn operation(security: &[(SecurityKind, &str)]) -> Operation {
    Operation {
        name: "orders.getOrder".to_owned(),
        api: "orders".to_owned(),
        id: "getOrder".to_owned(),
        method: Method::GET,
        template: String::new(),
        parameters: Vec::new(),
        security: security
            .iter()
            .map(|(kind, scopes)| Security { kind: *kind, scopes: scopes.parse().unwrap(), roles: Vec::new() })
            .collect(),
        body_limit: None,
        kind: OperationKind::Standard,
    }
}

fn route(operation: Operation, site: Option<&str>) -> Route {
    Route {
        organization: organization(),
        operation: Some(Arc::new(operation)),
        site: site.map(|site| site.parse().unwrap()),
        channel: None,
        client_id: None,
        prefix: PathPrefix::None,
        upstream_target: None,
        body_limit: 0,
        required_body: RequiredBody::None,
    }
}

fn token(site: Option<&str>, scopes: &str, delegation: Delegation) -> Shopper {
    let (client, usid) = ("11111111-1111-4111-8111-111111111111".parse().unwrap(), usid());
    let revocation_keys = RevocationKeys::new(&organization(), &client, &usid, None);
    Shopper {
        organization: organization(),
        client,
        usid,
        customer: None,
        is_registered: false,
        site: site.map(|site| site.parse().unwrap()),
        scopes: scopes.parse().unwrap(),
        delegation,
        agent: None,
        issued_at: 0,
        expires_at: 0,
        revocation_keys,
    }
}

fn usid() -> Usid {
    "18cda486-fe32-4e27-888b-6e4f89938e67".parse().unwrap()
}

fn caller(may_system: bool, sites: &[&str], proof: Proof) -> AuthenticatedCaller {
    let settings = config::Caller {
        name: "erp".to_owned(),
        identity: CallerIdentity::AccountManagerClient("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa".parse().unwrap()),
        may_system,
        may_on_behalf: true,
        may_create_shoppers: false,
        organizations: vec![organization()],
        sites: sites.iter().map(|site| site.parse().unwrap()).collect(),
        operations: vec!["orders.*".to_owned()],
        requests_per_second: None,
    };
    let callers = Callers::new(&[settings]).unwrap();
    let caller = Arc::clone(callers.iter().next().unwrap());
    AuthenticatedCaller { caller, proof }
}

fn bearer(scopes: &str) -> Proof {
    Proof::Bearer(Arc::new(SystemClient::with_scopes(scopes.parse().unwrap())))
}

#[test]
fn shopper_token_must_fit_kind_site_and_scope() {
    use SecurityKind::{Shopper, ShopperTaob, ShopperTsob, System};
    let (none, tsob, taob) =
        (Delegation::default(), Delegation { tsob: true, taob: false }, Delegation { tsob: false, taob: true });
    let needs = |kind| GatewayError::TokenKindWrong(kind);
    let lacks = |scopes: &str| GatewayError::ScopeMissing(scopes.parse().unwrap());
    for (security, delegation, scopes, site, expected) in [
        (&[(Shopper, "a b")][..], none, "b", None, Ok(())),
        (&[(Shopper, "a b")], none, "b", Some("RefArch"), Ok(())),
        (&[(Shopper, "a")], none, "b", None, Err(lacks("a"))),
        (&[(Shopper, "a")], none, "a", Some("Other"), Err(GatewayError::TokenWrongSite)),
        // The site is checked before the scope.
        (&[(Shopper, "a")], none, "b", Some("Other"), Err(GatewayError::TokenWrongSite)),
        (&[(ShopperTsob, "a")], none, "a", None, Err(needs(RequiredToken::OnBehalf))),
        (&[(ShopperTsob, "a")], tsob, "a", None, Ok(())),
        (&[(ShopperTaob, "a")], tsob, "a", None, Err(needs(RequiredToken::AgentOnBehalf))),
        (&[(ShopperTaob, "a")], taob, "a", None, Ok(())),
        (&[(System, "a")], tsob, "a", None, Err(needs(RequiredToken::System))),
        // Alternatives for another kind of token do not count.
        (&[(Shopper, "a"), (ShopperTsob, "b")], none, "b", None, Err(lacks("a"))),
        (&[(Shopper, "a"), (ShopperTsob, "b")], tsob, "b", None, Ok(())),
        // A merchant's route may need no scope.
        (&[(Shopper, "")], none, "", None, Ok(())),
    ] {
        let shopper_token = token(Some("RefArch"), scopes, delegation);
        let site = site.map(|site: &str| site.parse().unwrap());
        let result = shopper(&shopper_token, &operation(security), site.as_ref());
        assert_eq!(result, expected, "{security:?} {delegation:?} {scopes} {site:?}");
    }
}

#[test]
fn site_of_token_or_request_may_be_absent() {
    let requested = |site: &str| site.parse().unwrap();
    let (bound, free) = (token(Some("RefArch"), "", Delegation::default()), token(None, "", Delegation::default()));
    assert_eq!(site(&bound, None), Ok(()));
    assert_eq!(site(&free, Some(&requested("Other"))), Ok(()));
    assert_eq!(site(&bound, Some(&requested("Other"))), Err(GatewayError::TokenWrongSite));
}

#[test]
fn system_caller_must_be_permitted_and_have_a_scope() {
    let security = [(SecurityKind::System, "sfcc.orders sfcc.orders.rw")];
    let lacks = || GatewayError::ScopeMissing("sfcc.orders sfcc.orders.rw".parse().unwrap());
    for (may, proof, expected) in [
        (true, bearer("sfcc.orders.rw"), Ok(())),
        (true, bearer("sfcc.products"), Err(lacks())),
        (false, bearer("sfcc.orders.rw"), Err(GatewayError::CallerNotAllowed)),
        // The permission is checked before the scope.
        (false, bearer("sfcc.products"), Err(GatewayError::CallerNotAllowed)),
        (true, Proof::Basic(Err(ScopeRejected)), Err(lacks())),
        (false, Proof::Basic(Err(ScopeRejected)), Err(GatewayError::CallerNotAllowed)),
        (true, Proof::Certificate, Ok(())),
        (false, Proof::Certificate, Err(GatewayError::CallerNotAllowed)),
    ] {
        let operation = operation(&security);
        let caller = caller(may, &[], proof);
        let result = system(&caller, &operation, &route(operation.clone(), None));
        assert_eq!(result, expected, "{may} {:?}", caller.proof);
    }
}

#[test]
fn system_caller_of_a_site_is_limited_to_the_site() {
    let operation = operation(&[(SecurityKind::System, "s")]);
    let caller = caller(true, &["RefArch"], bearer("s"));
    for (site, expected) in
        [(None, Ok(())), (Some("RefArch"), Ok(())), (Some("Other"), Err(GatewayError::CallerNotAllowed))]
    {
        assert_eq!(system(&caller, &operation, &route(operation.clone(), site)), expected, "{site:?}");
    }
}

#[test]
fn system_token_is_the_wrong_kind_for_a_shopper_operation() {
    let operation = operation(&[(SecurityKind::Shopper, "a")]);
    let result = system(&caller(true, &[], bearer("a")), &operation, &route(operation.clone(), None));
    assert_eq!(result, Err(GatewayError::TokenKindWrong(RequiredToken::Shopper)));
}

#[test]
fn trusted_system_login_needs_a_login_scope() {
    let scopes: Scopes = "sfcc.ts_ext_on_behalf_of".parse().unwrap();
    let lacks = || GatewayError::ScopeMissing(scopes.clone());
    for (proof, scopes, expected) in [
        (bearer("sfcc.ts_ext_on_behalf_of"), scopes.clone(), Ok(())),
        (bearer("sfcc.orders"), scopes.clone(), Err(lacks())),
        (Proof::Certificate, scopes.clone(), Ok(())),
        (Proof::Basic(Err(ScopeRejected)), scopes.clone(), Err(lacks())),
        // Without scopes, Account Manager rejected the tenant.
        (Proof::Basic(Err(ScopeRejected)), Scopes::default(), Err(GatewayError::CallerNotAllowed)),
    ] {
        let caller = caller(true, &[], proof);
        assert_eq!(trusted_system_login(&caller, &scopes), expected, "{:?}", caller.proof);
    }
}

#[test]
fn recipient_must_still_be_configured_for_the_site() {
    let login = Arc::new(operation(&[(SecurityKind::System, "s")]));
    let shopper = token(Some("RefArch"), "", Delegation::default());
    let site = "RefArch".parse().unwrap();
    let here = caller(true, &["RefArch"], Proof::Certificate).caller;
    let elsewhere = caller(true, &["Other"], Proof::Certificate).caller;
    assert!(recipient(Some(&here), [&login].into_iter(), &shopper, &site).is_ok());
    for caller in [Some(&elsewhere), None] {
        let result = recipient(caller, [&login].into_iter(), &shopper, &site);
        assert!(matches!(result, Err(GatewayError::TokenInvalid(_))));
    }
}
