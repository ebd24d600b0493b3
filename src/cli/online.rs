//! `check --online`: tests the endpoints of a configuration.
//!
//! Each endpoint is tested once, all at the same time, within the configured timeouts, with the clients that `serve` uses. The
//! tests change nothing at the endpoints. Responses are not printed, only the result; a failure names the key to look at.

mod dependencies;
mod probe;
mod slas_clients;
mod tenant;

use futures_util::future::join_all;

use self::probe::ProbeResult;
use super::{
    error::{CommandError, start_runtime},
    terminal::{DIM_STYLE, ERROR_STYLE, OK_STYLE, Terminal, styled},
};
use crate::{app, config::Settings, observability::metrics::Metrics};

/// Runs all tests and prints one line for each.
///
/// # Errors
/// Returns [`CommandError::Reported`] if a test failed.
pub(super) fn check(settings: &Settings, terminal: &Terminal) -> Result<(), CommandError> {
    let results = start_runtime()?.block_on(probe_all(settings))?;
    for ProbeResult { name, result, duration } in &results {
        let duration = styled(DIM_STYLE, format!("{} ms", duration.as_millis()));
        let line = match result {
            Ok(found) => format!("{}      {name}: {found} ({duration})\n", styled(OK_STYLE, "ok")),
            Err(reason) => format!("{}  {name}: {reason} ({duration})\n", styled(ERROR_STYLE, "failed")),
        };
        terminal.print(&line)?;
    }
    if results.iter().all(|probe| probe.result.is_ok()) { Ok(()) } else { Err(CommandError::Reported) }
}

async fn probe_all(settings: &Settings) -> Result<Vec<ProbeResult>, CommandError> {
    let metrics = Metrics::new("", "").map_err(CommandError::from_display)?;
    let tenants = app::build_tenants(settings).map_err(CommandError::from_display)?;
    let of_tenants = tenants.iter().enumerate().map(|(index, (tenant, _))| tenant::probe_tenant(index, tenant));
    let (of_tenants, store, collector) = tokio::join!(
        join_all(of_tenants),
        dependencies::probe_store(settings, &metrics),
        dependencies::probe_collector(settings)
    );
    Ok(of_tenants.into_iter().flatten().chain(store).chain(collector).collect())
}
