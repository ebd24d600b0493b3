//! `serve`: runs the gateway until a signal stops it.

use super::{
    arguments::ConfigFile,
    error::{CommandError, start_runtime},
    terminal::Terminal,
};
use crate::{
    app::{self, App, process::fd_limit, restart::InheritedSockets, signals::Signals},
    config::{PolicyMode, Store},
    observability::setup,
};

pub(super) fn serve(file: &ConfigFile, terminal: &Terminal) -> Result<(), CommandError> {
    let inherited = InheritedSockets::from_environment().map_err(CommandError::context("LISTEN_FDS"))?;
    let loaded = app::load(&file.config)?;
    let telemetry = setup::start(&loaded.settings.log, &loaded.settings.traces, terminal.has_colored_stderr());
    let telemetry = telemetry.map_err(CommandError::from_display)?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        commit = app::COMMIT,
        configuration = %file.config.display(),
        store = match loaded.settings.store {
            Store::Memory => "memory",
            Store::Redis(_) => "redis",
        },
        mode = match loaded.settings.policy.mode {
            PolicyMode::Enforce => "enforce",
            PolicyMode::Report => "report",
        },
        "starting"
    );
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "{}", warning.message);
    }
    let connections = loaded.settings.limits.connections as u64;
    if let Some(descriptors) = fd_limit::raise().filter(|most| *most < connections * 2) {
        tracing::warn!(
            key = "limits.connections",
            connections,
            descriptors,
            "the limit of file descriptors is below two per connection: raise the hard limit of the process (LimitNOFILE in \
             systemd, ulimit -Hn)"
        );
    }
    // For background tasks. Connections have their own threads.
    start_runtime()?.block_on(async {
        let unhandled = CommandError::context("signals cannot be handled");
        let signals = Signals::new().map_err(&unhandled)?;
        let interrupts = signals.interrupts().map_err(&unhandled)?;
        let app = App::build_with_sockets(loaded.settings, inherited).map_err(CommandError::from_display)?;
        for address in app.public_addresses() {
            tracing::info!(%address, "listening");
        }
        tracing::info!(address = %app.admin_address(), "listening for operators");
        for counter in telemetry.counters() {
            app.reloader().register_metric(counter).map_err(CommandError::from_display)?;
        }
        let sockets = app.listening_sockets().map_err(CommandError::context("the listening sockets"))?;
        let stop = signals.handle_until_stop(app.reloader(), sockets, || telemetry.reopen_audit_file(), || app::load(&file.config));
        tokio::select! {
            ended = app.run(stop) => ended.map_err(CommandError::from_display),
            () = interrupts.wait_for_second() => Err(CommandError::Other("interrupted again: ended before all requests were answered".into())),
        }
    })
}
