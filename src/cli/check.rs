//! `check`: reports all errors of a configuration and, with `--online`, of the endpoints that it names.

use super::{
    arguments::ConfigFile,
    error::CommandError,
    online,
    terminal::{OK_STYLE, Terminal, WARNING_STYLE, styled},
};
use crate::app;

pub(super) fn check(file: &ConfigFile, online: bool, terminal: &Terminal) -> Result<(), CommandError> {
    let loaded = app::load(&file.config)?;
    for warning in &loaded.warnings {
        terminal.print(&format!("{}: {warning}\n", styled(WARNING_STYLE, "warning")))?;
    }
    let (operations, _) = app::build_policy(&loaded.settings).map_err(CommandError::from_display)?;
    terminal.print(&format!(
        "{}: {}: {}, {}, {}\n",
        file.config.display(),
        styled(OK_STYLE, "ok"),
        pluralize(loaded.settings.tenants.len(), "organization"),
        pluralize(loaded.settings.callers.len(), "caller"),
        pluralize(operations.iter().len(), "operation"),
    ))?;
    if online { online::check(&loaded.settings, terminal) } else { Ok(()) }
}

fn pluralize(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
