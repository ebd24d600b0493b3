//! The requests, byte for byte.

use std::{error::Error, net::SocketAddr};

use salesforce_simulator::{ShopperTokenSpec, Simulator};

use crate::load;

const ORGANIZATION: &str = "f_ecom_zzrf_001";
const PUBLIC_CLIENT: &str = "11111111-1111-4111-8111-111111111111";
const CALLER: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const LOGIN: &str = "shopper@example.com";

/// A caller's token of Account Manager, and whom it acts for.
pub fn read_on_behalf(simulator: &Simulator) -> Vec<u8> {
    let caller = simulator.mint_account_manager_token(CALLER, &["sfcc.orders"], "zzrf_001", 86_400);
    read(&caller, &format!("X-On-Behalf-Of: {LOGIN}\r\n"))
}

pub fn mint(simulator: &Simulator) -> String {
    simulator.mint_shopper_token(ShopperTokenSpec { lifetime_seconds: Some(86_400), ..ShopperTokenSpec::default() })
}

/// The same request with one letter of its token's signature changed.
pub fn damaged(request: &[u8]) -> Vec<u8> {
    let mut request = request.to_vec();
    let token = request.windows(7).position(|window| window == b"Bearer ").unwrap_or(0);
    let end = request[token..].iter().position(|byte| *byte == b'\r').unwrap_or(0) + token;
    if let Some(letter) = request.get_mut(end.saturating_sub(20)) {
        *letter = if *letter == b'A' { b'B' } else { b'A' };
    }
    request
}

pub fn read(token: &str, more: &str) -> Vec<u8> {
    format!(
        "GET /product/shopper-products/v1/organizations/{ORGANIZATION}/products?ids=a&siteId=RefArch HTTP/1.1\r\n\
         Host: shop.example\r\nAuthorization: Bearer {token}\r\nUser-Agent: commerce-sdk-isomorphic@5.6.0\r\n\
         Accept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n{more}\r\n"
    )
    .into_bytes()
}

/// The same read by a page whose token is in a cookie, beside the other cookies of its session.
pub fn read_by_cookie(name: &str, value: &str) -> Vec<u8> {
    format!(
        "GET /mobify/proxy/api/product/shopper-products/v1/organizations/{ORGANIZATION}/products?ids=a&siteId=RefArch HTTP/1.1\r\n\
         Host: shop.example\r\nx-site-id: RefArch\r\nSec-Fetch-Site: same-origin\r\nCookie: {name}={value}; \
         cc-at-expires_RefArch=1999999999; usid_RefArch=18cda486-fe32-4e27-888b-6e4f89938e67; customer_type_RefArch=guest\r\n\
         User-Agent: commerce-sdk-isomorphic@5.6.0\r\nAccept: application/json\r\nAccept-Encoding: gzip, deflate, br\r\n\r\n"
    )
    .into_bytes()
}

/// Logs a guest in as a page does, and returns the read of its page, with the id in its cookie.
pub async fn read_by_reference(to: SocketAddr) -> Result<Vec<u8>, Box<dyn Error>> {
    let login = String::from_utf8(slas_token())?.replacen("\r\n", "\r\nx-site-id: RefArch\r\n", 1);
    let (status, head) = load::once(to, login.as_bytes()).await?;
    let name = "__Host-cc-at_RefArch";
    let cookie = head.lines().find_map(|line| line.split_once(&format!("{name}="))?.1.split(';').next());
    cookie
        .map(|id| read_by_cookie(name, id))
        .ok_or_else(|| format!("a guest login is answered {status}, without a cookie").into())
}

pub fn login(to: SocketAddr) -> Vec<u8> {
    let body = r#"{"type":"guest"}"#;
    format!(
        "POST /customer/shopper-customers/v1/organizations/{ORGANIZATION}/customers/actions/login?siteId=RefArch\
         &clientId={PUBLIC_CLIENT} HTTP/1.1\r\nHost: {to}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

pub async fn log_in(to: SocketAddr, login: &[u8]) -> Result<String, Box<dyn Error>> {
    let (status, head) = load::once(to, login).await?;
    let token = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": Bearer ")?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
    });
    token.ok_or_else(|| format!("a guest login is answered {status}, without a token").into())
}

/// A guest's token for a private client, whose secret the proxy adds.
pub fn slas_token() -> Vec<u8> {
    let body = "grant_type=client_credentials&channel_id=RefArch&client_id=22222222-2222-4222-8222-222222222222";
    format!(
        "POST /mobify/slas/private/shopper/auth/v1/organizations/{ORGANIZATION}/oauth2/token HTTP/1.1\r\n\
         Host: shop.example\r\nX-Correlation-Id: 8bd2b1f0-52a6-4a4e-9d10-21f4d8c4a001\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
