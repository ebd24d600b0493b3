//! Where commands write: standard output, standard error, with colours or without.
//!
//! Owns the few styles and when they are used. What is written is plain text with styles around words; where colours are not
//! wanted (`--color`, `NO_COLOR`, no terminal) they are taken out on the way.

use std::{
    ffi::OsString,
    fmt::Display,
    io::{self, Write},
};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use clap::{ColorChoice, ValueEnum};

use super::error::CommandError;

pub(super) const OK_STYLE: Style = AnsiColor::Green.on_default().bold();
pub(super) const ERROR_STYLE: Style = AnsiColor::Red.on_default().bold();
pub(super) const WARNING_STYLE: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const HEADING_STYLE: Style = Style::new().bold();
pub(super) const DIM_STYLE: Style = Style::new().dimmed();

/// A text in a style.
pub(super) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

pub(super) struct Terminal {
    color: anstream::ColorChoice,
}

impl Terminal {
    pub(super) fn new(color: ColorChoice) -> Self {
        let color = match color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        Self { color }
    }

    /// Writes to standard output. A reader who has seen enough (`| head`) is no failure.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(super) fn print(&self, text: &str) -> Result<(), CommandError> {
        match AutoStream::new(io::stdout(), self.color).write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(CommandError::Other(format!("standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether what is written to standard error has colours.
    pub(super) fn has_colored_stderr(&self) -> bool {
        AutoStream::new(io::stderr(), self.color).current_choice() != anstream::ColorChoice::Never
    }

    /// Says on standard error why a command failed.
    pub(super) fn print_error(&self, error: &CommandError) {
        let text = match error {
            CommandError::Configuration(errors) => {
                let errors_first = errors.errors.iter().map(|finding| (ERROR_STYLE, "error", finding));
                let warnings = errors.warnings.iter().map(|finding| (WARNING_STYLE, "warning", finding));
                let lines = errors_first.chain(warnings);
                lines.map(|(style, kind, finding)| format!("{}: {finding}\n", styled(style, kind))).collect()
            }
            CommandError::Reported => return,
            CommandError::Other(text) => format!("{}: {}\n", styled(ERROR_STYLE, "error"), text.trim_end()),
        };
        // Nowhere is left to report a failure of standard error.
        let _ = AutoStream::new(io::stderr(), self.color).write_all(text.as_bytes());
    }
}

/// What `--color` says, wherever it stands; automatic if it says nothing of use, which the parser will then tell.
pub(super) fn color_choice(arguments: &[OsString]) -> ColorChoice {
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let asked = words.iter().enumerate().find_map(|(position, word)| match word.strip_prefix("--color")? {
        "" => words.get(position + 1).map(ToString::to_string),
        rest => rest.strip_prefix('=').map(str::to_owned),
    });
    asked.and_then(|asked| ColorChoice::from_str(&asked, false).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn color_choice_is_read_before_arguments_are_parsed() {
        let choice = |line: &str| color_choice(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(choice("gateway check --color never"), ColorChoice::Never);
        assert_eq!(choice("gateway --color=always --help"), ColorChoice::Always);
        for line in ["gateway --help", "gateway --color", "gateway --color=pink", "gateway --colorful never"] {
            assert_eq!(choice(line), ColorChoice::Auto, "{line}");
        }
    }
}
