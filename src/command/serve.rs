//! `serve`: the gateway until a signal ends it.

use super::{ConfigFile, Failure, load};
use crate::{app::App, telemetry};

pub(super) fn serve(file: &ConfigFile) -> Result<(), Failure> {
    let loaded = load(file)?;
    let exporter = telemetry::start(&loaded.settings.log, &loaded.settings.traces).map_err(Failure::of)?;
    for warning in &loaded.warnings {
        tracing::warn!(key = warning.path, "{}", warning.problem);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(loaded.settings.server.threads)
        .enable_all()
        .build()
        .map_err(|error| Failure::Other(format!("the runtime cannot start: {error}")))?;
    let result = runtime.block_on(async {
        let stop = stop_signal()?;
        let app = App::build(loaded.settings).map_err(Failure::of)?;
        for address in app.public_addresses() {
            tracing::info!(%address, "listening");
        }
        tracing::info!(address = %app.admin_address(), "listening for operators");
        app.run(stop).await.map_err(Failure::of)
    });
    if let Some(exporter) = exporter {
        exporter.stop();
    }
    result
}

/// Completes on SIGTERM or Ctrl-C. The handlers stand as soon as this returns, so that neither ends the
/// process without a word, however early it comes.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let handler = |kind| signal(kind).map_err(|error| Failure::Other(format!("signals cannot be handled: {error}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
