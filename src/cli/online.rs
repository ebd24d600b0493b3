//! `check --online`: whether what a configuration names answers, and as it should.
//!
//! Owns the questions and the words for what came back. Each endpoint is asked once, all at the same time, within the
//! configured time limits, by the very clients that `serve` uses; nothing is changed there. No answer is shown, only what
//! became of it, and each failure names the key to look at. What Salesforce has to say is `tenant`'s to ask, the rest `beside`'s.

mod beside;
mod finding;
mod slas_clients;
mod tenant;

use futures_util::future::join_all;

use self::finding::Finding;
use super::{
    failure::Failure,
    terminal::{BAD, GOOD, QUIET, Terminal, styled},
};
use crate::{app, config::Settings, observability::metrics::Metrics};

/// Asks everything, and says what came back.
///
/// # Errors
/// [`Failure::Said`] if anything failed.
pub(super) fn check(settings: &Settings, terminal: &Terminal) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Other(format!("the runtime cannot start: {error}")))?;
    let findings = runtime.block_on(ask(settings))?;
    for Finding { what, result, took } in &findings {
        let took = styled(QUIET, format!("{} ms", took.as_millis()));
        let line = match result {
            Ok(found) => format!("{}      {what}: {found} ({took})\n", styled(GOOD, "ok")),
            Err(reason) => format!("{}  {what}: {reason} ({took})\n", styled(BAD, "failed")),
        };
        terminal.print(&line)?;
    }
    if findings.iter().all(|finding| finding.result.is_ok()) { Ok(()) } else { Err(Failure::Said) }
}

async fn ask(settings: &Settings) -> Result<Vec<Finding>, Failure> {
    let metrics = Metrics::new("", "").map_err(Failure::of)?;
    let tenants = app::build_tenants(settings).map_err(Failure::of)?;
    let of_tenants = tenants.iter().enumerate().map(|(index, (tenant, _))| tenant::ask(index, tenant));
    let (of_tenants, store, collector) =
        tokio::join!(join_all(of_tenants), beside::ask_store(settings, &metrics), beside::ask_collector(settings));
    Ok(of_tenants.into_iter().flatten().chain(store).chain(collector).collect())
}
