//! `check`: everything that is wrong with a configuration, and, if asked, with what it names.

use super::{
    ConfigFile, Failure, load, online,
    terminal::{DOUBT, GOOD, Terminal, styled},
};
use crate::{app, proxy::tls::ListenerTls};

pub(super) fn check(file: &ConfigFile, online: bool, terminal: &Terminal) -> Result<(), Failure> {
    let loaded = load(file)?;
    for warning in &loaded.warnings {
        terminal.print(&format!("{}: {warning}\n", styled(DOUBT, "warning")))?;
    }
    let (operations, _) = app::policy(&loaded.settings).map_err(Failure::of)?;
    if let Some(files) = &loaded.settings.server.tls {
        ListenerTls::read(files).map_err(Failure::of)?;
    }
    terminal.print(&format!(
        "{}: {}: {} organizations, {} callers, {} operations\n",
        file.config.display(),
        styled(GOOD, "ok"),
        loaded.settings.tenants.len(),
        loaded.settings.callers.len(),
        operations.iter().len(),
    ))?;
    if online { online::check(&loaded.settings, terminal) } else { Ok(()) }
}
