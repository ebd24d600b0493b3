//! Runs files of Node tests against a gateway and a simulator.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::process::Command;

/// Maximum time of a file of tests.
const TIMEOUT: Duration = Duration::from_secs(240);

/// Runs one file of tests with only these environment variables, and fails with its output.
pub async fn run(folder: &str, file: &str, environment: &[(&str, &str)]) {
    assert!(
        Path::new(folder).join("node_modules").is_dir(),
        "{folder}/node_modules is missing: run `make test`, which installs the packages"
    );
    let node = Command::new("node")
        .args(["--test", "--test-reporter=spec", file])
        .current_dir(folder)
        // The environment is cleared, because a proxy in it would come between the client and the gateway.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(TIMEOUT, node)
        .await
        .unwrap_or_else(|_| panic!("{file} hangs"))
        .unwrap_or_else(|error| panic!("node cannot be started ({error}): run `make test`, which installs it"));
    assert!(output.status.success(), "{file}: {}\n{}{}", output.status, shown(&output.stdout), shown(&output.stderr));
}

/// The output of node without the SDKs' minified lines of half a megabyte, which node quotes.
fn shown(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    text.lines().flat_map(|line| line.chars().take(300).chain(['\n'])).collect()
}
