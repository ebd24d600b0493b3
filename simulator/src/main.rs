//! The command line of the simulator: reads a seed, starts, prints logins and samples, waits.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use salesforce_simulator::{Seed, Simulator};

const EXAMPLES: &str = "\
Examples:
  salesforce-simulator
      on 127.0.0.1:8081 with the built-in seed
  salesforce-simulator --listen 127.0.0.1:0
      on a free port, which it prints
  salesforce-simulator --seed my-seed.toml
      with your own clients, shoppers and products (see simulator/seed.toml)
  curl http://127.0.0.1:8081/__simulator/
      what a running simulator offers";

/// A local Account Manager, SLAS and B2C Commerce Shopper APIs.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The address to listen on, for HTTP/1.1 and h2c.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
    /// A seed document instead of the built-in one.
    #[arg(long, value_name = "FILE")]
    seed: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The exit code reports the failure even if standard error is closed.
            drop(writeln!(io::stderr(), "salesforce-simulator: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), String> {
    let seed = match &arguments.seed {
        None => Seed::default(),
        Some(path) => {
            let name = path.display();
            let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
            Seed::parse(&text).map_err(|error| format!("{name}: {error}"))?
        }
    };
    let simulator = salesforce_simulator::start(arguments.listen, seed)
        .await
        .map_err(|error| format!("{}: {error}", arguments.listen))?;
    // The simulator runs even if standard output is closed.
    drop(io::stdout().write_all(greeting(&simulator).as_bytes()));
    interrupted().await.map_err(|error| error.to_string())?;
    simulator.stop().await;
    Ok(())
}

fn greeting(simulator: &Simulator) -> String {
    let (url, seed) = (simulator.url(), simulator.seed());
    let mut text = format!("Salesforce simulator on {url}  (overview: {url}/__simulator/)\n");
    for organization in &seed.organizations {
        text.push_str(&format!("  organization {}  sites {}\n", organization.id, organization.sites.join(", ")));
    }
    for client in &seed.slas_clients {
        let secret = client.secret.as_deref().unwrap_or("(public)");
        let strict = if client.strict_client_auth { "  strict" } else { "" };
        text.push_str(&format!("  SLAS client {}  {secret}{strict}\n", client.id));
    }
    for client in &seed.account_manager_clients {
        text.push_str(&format!(
            "  Account Manager client {}  {}  for {}\n",
            client.id,
            client.secret,
            client.tenants.join(", ")
        ));
    }
    for shopper in &seed.shoppers {
        text.push_str(&format!("  shopper {}  {}\n", shopper.login, shopper.password));
    }
    text.push_str(&samples(&url, seed));
    text
}

/// Three commands to copy, for clients and shoppers of the seed.
fn samples(url: &str, seed: &Seed) -> String {
    let organization = seed.organizations.first();
    let id = organization.map_or("f_ecom_zzrf_001", |known| known.id.as_str());
    let site = organization.and_then(|known| known.sites.first()).map_or("RefArch", String::as_str);
    let client = seed.slas_clients.iter().find(|client| client.is_private());
    let credentials = client
        .map_or(String::new(), |client| format!("{}:{}", client.id, client.secret.as_deref().unwrap_or_default()));
    let machine = seed.account_manager_clients.first();
    let (machine, tenant) = machine.map_or((String::new(), ""), |client| {
        let tenant = client.tenants.first().map_or("", String::as_str);
        (format!("{}:{}", client.id, client.secret), tenant)
    });
    format!(
        "\nTry:
  # a guest's tokens
  curl -s -u '{credentials}' -d 'grant_type=client_credentials&channel_id={site}' {url}/shopper/auth/v1/organizations/{id}/oauth2/token
  # a system's token
  curl -s -u '{machine}' -d 'grant_type=client_credentials' --data-urlencode 'scope=SALESFORCE_COMMERCE_API:{tenant} sfcc.orders' {url}/dwsso/oauth2/access_token
  # what was received
  curl -s {url}/__simulator/ledger
"
    )
}

/// Returns at Ctrl-C or SIGTERM.
async fn interrupted() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = tokio::signal::ctrl_c() => outcome,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
