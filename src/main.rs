//! The command line: `serve`, `check`, `routes`, `schema`.

use std::{
    borrow::Cow,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use shopper_gateway::{
    app::{
        self, App,
        handover::{self, Inherited},
        signals::Signals,
    },
    core_dumps, descriptors,
    gate::{
        caller::Callers,
        operations::{Operation, OperationKind, Operations, SecurityKind},
        slas::what_is_added,
    },
    proxy::tls::ListenerTls,
    settings::{self, Settings},
    telemetry,
};

/// Exit code for a configuration with errors, and for anything else that prevents the start.
const FAILED: u8 = 1;

/// Reverse proxy in front of the Salesforce B2C Commerce Shopper APIs.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  shopper-gateway check  -c config/demo.toml     every error of a configuration at once
  shopper-gateway serve  -c config/demo.toml     run the gateway
  shopper-gateway routes -c config/demo.toml     what is let through, for whom
  shopper-gateway schema > gateway.schema.json   JSON Schema for an editor

Every key can also come from the environment: SHOPPER_GATEWAY__SERVER__THREADS=4.
Exit codes: 0 done, 1 configuration or start failed, 2 wrong usage."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C
    Serve(ConfigFile),
    /// Check a configuration and report every error with its key
    Check(ConfigFile),
    /// Print the effective table: method, path, operation, who may call it, which credential goes upstream
    Routes(ConfigFile),
    /// Print the JSON Schema of the configuration
    Schema,
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration, TOML
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    // First of all: TLS and token verification use one provider, and panic without one.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return failed("another cryptography provider is installed already");
    }
    // Every command reads secrets.
    if let Err(error) = core_dumps::forbid() {
        return failed(&format!("core dumps cannot be switched off: {error}"));
    }
    let result = match CommandLine::parse().command {
        Command::Serve(file) => serve(&file),
        Command::Check(file) => check(&file),
        Command::Routes(file) => routes(&file),
        Command::Schema => print(&format!("{:#}\n", settings::schema())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => failed(&message),
    }
}

fn load(file: &ConfigFile) -> Result<settings::Loaded, String> {
    Settings::load(&file.config).map_err(|errors| errors.to_string())
}

fn serve(file: &ConfigFile) -> Result<(), String> {
    let inherited = Inherited::from_environment().map_err(|error| format!("LISTEN_FDS: {error}"))?;
    let loaded = load(file)?;
    let logs = telemetry::start(&loaded.settings.log).map_err(|error| format!("log.audit_file: {error}"))?;
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "{}", warning.problem);
    }
    let connections = loaded.settings.limits.connections as u64;
    if let Some(descriptors) = descriptors::raise_limit().filter(|most| *most < connections * 2) {
        tracing::warn!(
            key = "limits.connections",
            connections,
            descriptors,
            "each connection may take two descriptors, and the system allows this process fewer: raise its hard limit \
             (LimitNOFILE of systemd, ulimit -Hn)"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(loaded.settings.server.threads)
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot start: {error}"))?;
    runtime.block_on(async {
        let signals = Signals::new().map_err(|error| format!("signals cannot be handled: {error}"))?;
        let app = App::build_on(loaded.settings, inherited).map_err(|error| error.to_string())?;
        for address in app.public_addresses() {
            tracing::info!(%address, "listening");
        }
        tracing::info!(address = %app.admin_address(), "listening for operators");
        let live = app.live();
        live.show(logs.lost()).map_err(|error| error.to_string())?;
        let sockets = app.sockets().map_err(|error| format!("the listening sockets: {error}"))?;
        tokio::spawn(async move {
            live.ready().await;
            handover::tell_ready();
        });
        let stop = signals.obey(app.live(), sockets, || Settings::load(&file.config));
        app.run(stop).await.map_err(|error| error.to_string())
    })
}

fn check(file: &ConfigFile) -> Result<(), String> {
    let loaded = load(file)?;
    for warning in &loaded.warnings {
        print(&format!("warning: {}: {}\n", warning.path, warning.problem))?;
    }
    let (operations, _) = app::policy(&loaded.settings).map_err(|error| error.to_string())?;
    if let Some(files) = &loaded.settings.server.tls {
        ListenerTls::read(files).map_err(|error| error.to_string())?;
    }
    print(&format!(
        "{}: ok: {} organizations, {} callers, {} operations\n",
        file.config.display(),
        loaded.settings.tenants.len(),
        loaded.settings.callers.len(),
        operations.iter().len(),
    ))
}

fn routes(file: &ConfigFile) -> Result<(), String> {
    let loaded = load(file)?;
    let (operations, callers) = app::policy(&loaded.settings).map_err(|error| error.to_string())?;
    print(&route_table(&operations, &callers))
}

/// One line an operation, tab-separated, under a line of headings.
fn route_table(operations: &Operations, callers: &Callers) -> String {
    let mut table = "METHOD\tPATH\tOPERATION\tWHO MAY CALL\tUPSTREAM CREDENTIAL\n".to_owned();
    for operation in operations.iter() {
        let line = [
            operation.method.as_str(),
            &operation.template,
            &operation.name,
            &who_may_call(operation, callers),
            &upstream_credential(operation),
        ];
        table.push_str(&line.join("\t"));
        table.push('\n');
    }
    table
}

fn who_may_call(operation: &Operation, callers: &Callers) -> String {
    if operation.security.is_empty() {
        return "anyone; SLAS checks the request's own credential".to_owned();
    }
    let alternatives = operation.security.iter().map(|security| match security.kind {
        SecurityKind::System => {
            let allowed: Vec<_> = callers
                .iter()
                .filter(|caller| caller.settings.may_system && caller.operations().any(|glob| glob.matches(operation)))
                .map(|caller| caller.settings.name.as_str())
                .collect();
            let allowed = if allowed.is_empty() { "no configured caller".to_owned() } else { allowed.join(", ") };
            format!("system ({allowed}) with any of: {}", security.scopes)
        }
        kind => format!("{kind} with any of: {}", security.scopes),
    });
    alternatives.collect::<Vec<_>>().join(" | ")
}

fn upstream_credential(operation: &Operation) -> Cow<'static, str> {
    match operation.kind {
        OperationKind::DeprecatedLogin
        | OperationKind::DeprecatedLogout
        | OperationKind::DeprecatedTrustedSystemLogin => "none; performed against SLAS".into(),
        OperationKind::Slas | OperationKind::Standard | OperationKind::Merchant => match what_is_added(operation) {
            Some(added) => format!("the caller's own, as received; if it has none, {added}").into(),
            None => "the caller's own, as received".into(),
        },
    }
}

fn print(text: &str) -> Result<(), String> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

fn failed(message: &str) -> ExitCode {
    // Nowhere is left to report a failure of standard error.
    let _ = writeln!(io::stderr(), "{}", message.trim_end());
    ExitCode::from(FAILED)
}
