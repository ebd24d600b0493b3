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

use super::failure::Failure;

pub(super) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(super) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(super) const DOUBT: Style = AnsiColor::Yellow.on_default().bold();
pub(super) const HEADING: Style = Style::new().bold();
pub(super) const QUIET: Style = Style::new().dimmed();

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
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        match AutoStream::new(io::stdout(), self.color).write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(Failure::Other(format!("standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether what is written to standard error has colours.
    pub(super) fn colours_errors(&self) -> bool {
        AutoStream::new(io::stderr(), self.color).current_choice() != anstream::ColorChoice::Never
    }

    /// Says on standard error why a command failed.
    pub(super) fn report(&self, failure: &Failure) {
        let text = match failure {
            Failure::Configuration(errors) => {
                let errors_first = errors.errors.iter().map(|finding| (BAD, "error", finding));
                let warnings = errors.warnings.iter().map(|finding| (DOUBT, "warning", finding));
                let lines = errors_first.chain(warnings);
                lines.map(|(style, kind, finding)| format!("{}: {finding}\n", styled(style, kind))).collect()
            }
            Failure::Said => return,
            Failure::Other(text) => format!("{}: {}\n", styled(BAD, "error"), text.trim_end()),
        };
        // Nowhere is left to report a failure of standard error.
        let _ = AutoStream::new(io::stderr(), self.color).write_all(text.as_bytes());
    }
}

/// What `--color` says, wherever it stands; automatic if it says nothing of use, which the parser will then tell.
pub(super) fn choice_among(arguments: &[OsString]) -> ColorChoice {
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
    fn colours_are_found_before_parsing() {
        let choice = |line: &str| choice_among(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert_eq!(choice("gateway check --color never"), ColorChoice::Never);
        assert_eq!(choice("gateway --color=always --help"), ColorChoice::Always);
        for line in ["gateway --help", "gateway --color", "gateway --color=pink", "gateway --colorful never"] {
            assert_eq!(choice(line), ColorChoice::Auto, "{line}");
        }
    }
}
