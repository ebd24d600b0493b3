//! The demo: a simulated Salesforce and a gateway in front of it, and what an old app does with them.
//!
//! `make demo` builds and runs it. It prints each call as a curl command that can be repeated by
//! hand, one after the other in one shell, and its answer, and stays up until Ctrl-C; with `--once` it ends after the calls.

#![allow(clippy::print_stdout)]

use std::{
    error::Error,
    io::{IsTerminal, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Stdio,
    time::Duration,
};

use salesforce_simulator::Seed;
use shopper_gateway::{
    app::{App, StopReason},
    config::Settings,
    observability::setup,
};
use tokio::{process::Command, sync::oneshot};

const PUBLIC_CLIENT: &str = "11111111-1111-4111-8111-111111111111";
const LOGIN: &str = "shopper@example.com";
const PASSWORD: &str = "Passw0rd!shopper";
const CALLER: &str = "bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb";
const CALLER_SECRET: &str = "caller-secret";
/// Longer values (tokens) are cut in what is shown, never in what is sent.
const SHOWN: usize = 100;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// An answer as curl printed it.
struct Answer {
    head: String,
    body: String,
}

/// The calls, numbered as they are shown.
struct Walk {
    gateway: SocketAddr,
    number: usize,
}

#[tokio::main]
async fn main() -> Outcome<()> {
    let once = std::env::args().any(|argument| argument == "--once");
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return Err("another cryptography provider is installed already".into());
    }
    step("Starting a simulated Salesforce (Account Manager, SLAS, Shopper APIs)");
    let simulator = salesforce_simulator::start(free(8081), Seed::default()).await?;
    println!("  {}  (overview: {}/__simulator/)", simulator.url(), simulator.url());

    step("Starting the gateway in front of it, with config/demo.toml");
    let app = App::build(settings(&simulator.url())?)?;
    let gateway = app.public_addresses().next().ok_or("the gateway has no public listener")?;
    let admin = app.admin_address();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async {
        // Either the demo says so or it is gone.
        let _ = stopped.await;
        StopReason::Shutdown
    }));
    wait_until_ready(admin).await?;
    println!("  shop:      http://{gateway}");
    println!("  operators: http://{admin}/readyz  /metrics  /status");
    println!("  log:       warnings are printed here; this command enables the access log:");
    println!(
        "             curl -X PUT -H 'Content-Type: application/json' -d '{{\"level\":\"info\"}}' http://{admin}/log-level"
    );

    Walk { gateway, number: 0 }.go().await?;

    if once {
        step("Done");
    } else {
        step("The demo runs until Ctrl-C. Try the commands in another terminal.");
        tokio::signal::ctrl_c().await?;
        step("Stopping");
    }
    // The gateway may have ended by itself, which the join below reports.
    let _ = stop.send(());
    running.await??;
    simulator.stop().await;
    Ok(())
}

impl Walk {
    async fn go(&mut self) -> Outcome<()> {
        let customers = "/customer/shopper-customers/v1/organizations/f_ecom_zzrf_001/customers";
        let baskets = "/checkout/shopper-baskets/v1/organizations/f_ecom_zzrf_001/baskets";
        let login = format!("{customers}/actions/login?siteId=RefArch&clientId={PUBLIC_CLIENT}");
        let json = ["-H", "Content-Type: application/json"];

        let guest = self
            .call(
                "A guest logs in at the deprecated endpoint; the gateway performs the login at SLAS",
                &login,
                "",
                &["-X", "POST", json[0], json[1], "-d", r#"{"type": "guest"}"#],
            )
            .await?;
        let token = guest.token()?;
        self.call(
            "The guest creates a basket; the gateway verifies the token and forwards the request",
            &format!("{baskets}?siteId=RefArch"),
            &token,
            &["-X", "POST", json[0], json[1], "-d", "{}"],
        )
        .await?;
        let shopper = self
            .call(
                "A registered shopper logs in with a password at the deprecated endpoint",
                &login,
                "",
                &[
                    "-X",
                    "POST",
                    "-u",
                    &format!("{LOGIN}:{PASSWORD}"),
                    json[0],
                    json[1],
                    "-d",
                    r#"{"type": "credentials"}"#,
                ],
            )
            .await?;
        let token = shopper.token()?;
        let id = shopper.field("customerId")?;
        self.call(
            "The shopper's profile, with the token of the response header Authorization",
            &format!("{customers}/{id}?siteId=RefArch"),
            &token,
            &[],
        )
        .await?;
        let basket = self
            .call(
                "The shopper creates a basket",
                &format!("{baskets}?siteId=RefArch"),
                &token,
                &["-X", "POST", json[0], json[1], "-d", "{}"],
            )
            .await?
            .field("basketId")?;
        let caller = format!("{CALLER}:{CALLER_SECRET}");
        let orders = "/checkout/orders/v1/organizations/f_ecom_zzrf_001/orders?siteId=RefArch";
        self.call("A trusted system lists orders with its Account Manager client", orders, "", &["-u", &caller])
            .await?;
        self.call(
            "The same system reads the basket on behalf of the shopper, without a password",
            &format!("{baskets}/{basket}?siteId=RefArch"),
            "",
            &["-u", &caller, "-H", &format!("X-On-Behalf-Of: {LOGIN}")],
        )
        .await?;
        self.call(
            "The gateway rejects a request without a token",
            &format!("{baskets}?siteId=RefArch"),
            "",
            &["-X", "POST", json[0], json[1], "-d", "{}"],
        )
        .await?;
        Ok(())
    }

    /// Shows and runs one curl command, with `token` as the bearer if there is one; what is shown of a login keeps its token.
    async fn call(&mut self, what: &str, target: &str, token: &str, arguments: &[&str]) -> Outcome<Answer> {
        self.number += 1;
        step(&format!("{}. {what}", self.number));
        let url = format!("http://{}{target}", self.gateway);
        let mut shown = "curl -si".to_owned();
        for argument in arguments {
            let plain = argument.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            shown.push_str(&if plain { format!(" {argument}") } else { format!(" '{argument}'") });
        }
        let mut command = Command::new("curl");
        command.args(["-si", "--noproxy", "*"]).args(arguments).stdin(Stdio::null());
        if !token.is_empty() {
            shown.push_str(" -H \"Authorization: Bearer $TOKEN\"");
            command.arg("-H").arg(format!("Authorization: Bearer {token}"));
        }
        if target.contains("/actions/login") {
            println!("  $ LOGIN=$({shown} '{url}'); echo \"$LOGIN\"");
            println!("  $ TOKEN=$(echo \"$LOGIN\" | tr -d '\\r' | sed -n 's/^authorization: Bearer //Ip')");
        } else {
            println!("  $ {shown} '{url}'");
        }
        let output = command.arg(&url).output().await.map_err(|error| format!("curl cannot be run: {error}"))?;
        let text = String::from_utf8(output.stdout)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or("curl received no response")?;
        for line in head.lines().chain(body.lines()) {
            println!("  {}", cut(line));
        }
        Ok(Answer { head: head.to_owned(), body: body.to_owned() })
    }
}

impl Answer {
    fn token(&self) -> Outcome<String> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        let (_, value) =
            fields.find(|(name, _)| name.eq_ignore_ascii_case("authorization")).ok_or("the response has no token")?;
        Ok(value.trim_start_matches("Bearer ").to_owned())
    }

    fn field(&self, name: &str) -> Outcome<String> {
        let document: serde_json::Value = serde_json::from_str(&self.body)?;
        Ok(document[name].as_str().ok_or("the response lacks a field")?.to_owned())
    }
}

/// The demo's settings, with the simulator's address and ports that are free.
fn settings(simulator: &str) -> Outcome<Settings> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo.toml");
    let environment = [
        ("SHOPPER_GATEWAY__SERVER__LISTEN", free(8080).to_string()),
        ("SHOPPER_GATEWAY__ADMIN__LISTEN", free(9090).to_string()),
        ("SHOPPER_GATEWAY__TENANTS__0__API", simulator.to_owned()),
        ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", simulator.to_owned()),
    ];
    let loaded = Settings::load_with(&path, environment.map(|(name, value)| (name.to_owned(), value)))
        .map_err(|errors| errors.to_string())?;
    let mut log = loaded.settings.log.clone();
    "warn".clone_into(&mut log.level);
    // Beside what was built, wherever that is: target/debug/examples/demo.
    let audit_file = std::env::current_exe()?.ancestors().nth(3).map(|target| target.join("demo-audit.jsonl"));
    if let Some(file) = &audit_file {
        println!("  audit log: {}", file.display());
    }
    log.audit_file = audit_file;
    setup::start(&log, &loaded.settings.traces, std::io::stderr().is_terminal())?;
    Ok(loaded.settings)
}

/// The usual port if it is free, or else any.
fn free(port: u16) -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], port));
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::from(([127, 0, 0, 1], 0)) }
}

async fn wait_until_ready(admin: SocketAddr) -> Outcome<()> {
    let url = format!("http://{admin}/readyz");
    for _ in 0..200 {
        if reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err("the gateway did not become ready within 10 seconds".into())
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}… ({} characters)", &line[..end], line.chars().count()),
        None => line.to_owned(),
    }
}

fn step(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m{text}\x1b[0m");
    } else {
        println!("\n{text}");
    }
    // Output during a wait must appear at once.
    let _ = std::io::stdout().flush();
}
