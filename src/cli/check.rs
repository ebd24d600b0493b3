//! `check`: everything that is wrong with a configuration, and, if asked, with what it names.

use super::{
    arguments::ConfigFile,
    failure::Failure,
    online,
    terminal::{DOUBT, GOOD, Terminal, styled},
};
use crate::app;

pub(super) fn check(file: &ConfigFile, online: bool, terminal: &Terminal) -> Result<(), Failure> {
    let loaded = app::load(&file.config)?;
    for warning in &loaded.warnings {
        terminal.print(&format!("{}: {warning}\n", styled(DOUBT, "warning")))?;
    }
    let (operations, _) = app::build_policy(&loaded.settings).map_err(Failure::of)?;
    terminal.print(&format!(
        "{}: {}: {}, {}, {}\n",
        file.config.display(),
        styled(GOOD, "ok"),
        counted(loaded.settings.tenants.len(), "organization"),
        counted(loaded.settings.callers.len(), "caller"),
        counted(operations.iter().len(), "operation"),
    ))?;
    if online { online::check(&loaded.settings, terminal) } else { Ok(()) }
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
