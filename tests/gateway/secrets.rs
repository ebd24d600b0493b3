//! Secrets appear only where they belong.
//!
//! A process logs at level TRACE while every flow runs through it. Then all its visible output is searched for every
//! secret, in every encoding.

mod driver;
mod flows;
mod search;

use self::{
    driver::{Driver, ResponseSecrets},
    search::Secrets,
};
use crate::world::{PUBLIC_CLIENT, login_target};

/// A text that a caller plants in every searched output. Finding it proves that the search works.
const PLANTED: &str = "planted-by-a-caller-0815";

async fn every_flow(format: &str) {
    let mut driver = Driver::start(format).await;
    let planted = driver.post(&login_target(PUBLIC_CLIENT)).body(r#"{"type":"guest"}"#);
    driver.send(planted.header("correlation-id", PLANTED), ResponseSecrets::Token).await;
    flows::deprecated_logins(&mut driver).await;
    flows::trusted_systems(&mut driver).await;
    driver.read_operator_pages().await;
    flows::slas_paths(&mut driver).await;
    flows::one_time_tokens(&mut driver).await;
    flows::refusals(&mut driver).await;
    flows::faults(&mut driver).await;
    flows::reloads(&mut driver).await;
    driver.read_operator_pages().await;
    driver.learn_from_salesforce();
    let _: () = driver.redis.run(redis::cmd("SET").arg("planted").arg(PLANTED)).await;
    driver.replica.terminate();
    assert_eq!(driver.replica.wait().await, Some(0));

    assert!(driver.secrets.len() > 100, "only {} secrets are known", driver.secrets.len());
    let mut hidden = driver.secrets.clone();
    hidden.extend(&Driver::personal_data());
    let mut control = Secrets::default();
    control.add("what was planted", PLANTED);
    for (place, text) in driver.visible_output().await {
        assert!(text.len() > 1000, "{place} is nearly empty");
        assert_eq!(control.find_in(&text).len(), 1, "{place} does not hold what was planted");
        // A response may name its own shopper.
        let secrets = if place == "answers" { &driver.secrets } else { &hidden };
        let found = secrets.find_in(&text);
        assert!(found.is_empty(), "{place} tells {found:?}:\n{}", excerpt(&text, secrets));
    }
}

/// The lines with a secret.
fn excerpt(text: &[u8], secrets: &Secrets) -> String {
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !secrets.find_in(line).is_empty());
    lines.take(3).map(|line| String::from_utf8_lossy(line).into_owned()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn no_flow_reveals_secrets_with_json_log() {
    every_flow("json").await;
}

#[tokio::test]
async fn no_flow_reveals_secrets_with_text_log() {
    every_flow("text").await;
}
