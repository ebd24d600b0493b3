//! Logins through a storefront's server, which sends the requests of all its shoppers from its own address.

use futures::future::join_all;
use reqwest::RequestBuilder;

use crate::world::{Answer, LOGIN, PASSWORD, PUBLIC_CLIENT, World, login_target};

const RATE_LIMITED: (u16, &str) = (429, "caller_rate_limited");
/// `logins.failed_per_address` of these tests.
const PER_ADDRESS: usize = 10;

/// A gateway whose clients connect from a network with these keys.
async fn world(network: &str) -> World {
    let limits = format!("[[networks]]\nnetwork = \"127.0.0.0/8\"\n{network}\n");
    let world = World::with(|config| {
        let logins =
            format!("failed_per_address = {PER_ADDRESS}\nfailed_per_address_and_login = 2\nfailed_per_login = 4");
        config.insert("logins".into(), logins.parse::<toml::Table>().unwrap().into());
        config.insert("limits".into(), limits.parse::<toml::Table>().unwrap().into());
    })
    .await;
    world.simulator.set(|behaviour| behaviour.enforce_windows = false);
    world
}

fn login(world: &World, login: &str, password: &str) -> RequestBuilder {
    let request = world.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"credentials"}"#);
    request.basic_auth(login, Some(password))
}

/// Sends wrong passwords for many login ids at once, and returns how many of them reached SLAS.
async fn guess(world: &World, number: usize, client: Option<&str>) -> usize {
    let requests = (0..number).map(|number| {
        let request = login(world, &format!("victim-{number}@example.com"), "wrong");
        world.send(client.iter().fold(request, |request, client| request.header("x-client-ip", *client)))
    });
    reached(&join_all(requests).await)
}

/// Sends wrong passwords for one login id until the gateway refuses one, and returns how many reached SLAS.
async fn guess_one(world: &World) -> usize {
    for number in 0..10 {
        if world.send(login(world, LOGIN, "wrong")).await.refusal() == RATE_LIMITED {
            return number;
        }
    }
    10
}

fn reached(answers: &[Answer]) -> usize {
    let reached = answers.iter().filter(|answer| answer.status == 401).count();
    let other = answers.iter().find(|answer| answer.status != 401 && answer.refusal() != RATE_LIMITED);
    assert!(other.is_none(), "{}", other.map(Answer::text).unwrap_or_default());
    reached
}

#[tokio::test]
async fn wrong_passwords_of_one_shopper_do_not_block_other_shoppers_of_the_server() {
    let world = world("storefront_server = true").await;
    assert_eq!(guess(&world, 4 * PER_ADDRESS, None).await, 4 * PER_ADDRESS);
    assert_eq!(world.send(login(&world, LOGIN, PASSWORD)).await.status, 200);
}

#[tokio::test]
async fn wrong_passwords_through_unlisted_server_block_all_its_shoppers() {
    let world = world("guests_per_address = 0").await;
    assert_eq!(guess(&world, 4 * PER_ADDRESS, None).await, PER_ADDRESS);
    assert_eq!(world.send(login(&world, LOGIN, PASSWORD)).await.refusal(), RATE_LIMITED);
}

#[tokio::test]
async fn failed_logins_through_a_server_are_limited_per_login_and_by_its_own_limit() {
    let world = world("storefront_server = true").await;
    assert_eq!(guess_one(&world).await, 4);
    let world = self::world("storefront_server = true\nfailed_per_address = 25").await;
    assert_eq!(guess(&world, 40, None).await, 25);
    let world = self::world("storefront_server = true\nfailed_per_address_and_login = 3").await;
    assert_eq!(guess_one(&world).await, 3);
}

#[tokio::test]
async fn shopper_named_by_the_server_is_limited_alone() {
    let world = world("storefront_server = true\nclient_address_header = \"X-Client-IP\"").await;
    assert_eq!(guess(&world, 2 * PER_ADDRESS, Some("198.51.100.66")).await, PER_ADDRESS);
    let shopper = |address: &str| login(&world, LOGIN, PASSWORD).header("x-client-ip", address.to_owned());
    assert_eq!(world.send(shopper("198.51.100.66")).await.refusal(), RATE_LIMITED);
    assert_eq!(world.send(shopper("198.51.100.7")).await.status, 200);
    // The server names itself when it renders a page.
    assert_eq!(world.send(shopper("127.0.0.1")).await.status, 200);
    assert_eq!(guess(&world, 2 * PER_ADDRESS, Some("127.0.0.1")).await, 2 * PER_ADDRESS);
}

#[tokio::test]
async fn address_named_by_unlisted_client_is_ignored() {
    let world = world("guests_per_address = 0").await;
    let addresses = ["198.51.100.1", "198.51.100.2", "198.51.100.3"];
    let reached = join_all(addresses.map(|address| guess(&world, PER_ADDRESS, Some(address)))).await;
    assert_eq!(reached.iter().sum::<usize>(), PER_ADDRESS, "one address, whatever it names");
}
