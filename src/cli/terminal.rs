//! Output of commands to standard output and standard error, with or without colors.
//!
//! Text contains style codes around words. They are removed on output if colors are off (`--color`, `NO_COLOR`, no terminal).

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

    /// Writes to standard output. A closed pipe (`| head`) is no error.
    ///
    /// # Errors
    /// Returns [`CommandError::Other`] if the output cannot be written.
    pub(super) fn print(&self, text: &str) -> Result<(), CommandError> {
        match AutoStream::new(io::stdout(), self.color).write_all(text.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(CommandError::Other(format!("standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether output to standard error has colors.
    pub(super) fn has_colored_stderr(&self) -> bool {
        AutoStream::new(io::stderr(), self.color).current_choice() != anstream::ColorChoice::Never
    }

    /// Prints the reason of a failed command to standard error.
    pub(super) fn print_error(&self, error: &CommandError) {
        let text = match error {
            CommandError::Configuration(errors) => {
                let errors_first = errors.errors.iter().map(|diagnostic| (ERROR_STYLE, "error", diagnostic));
                let warnings = errors.warnings.iter().map(|diagnostic| (WARNING_STYLE, "warning", diagnostic));
                let lines = errors_first.chain(warnings);
                lines.map(|(style, kind, diagnostic)| format!("{}: {diagnostic}\n", styled(style, kind))).collect()
            }
            CommandError::Reported => return,
            CommandError::Other(text) => format!("{}: {}\n", styled(ERROR_STYLE, "error"), text.trim_end()),
        };
        // A failure of standard error cannot be reported.
        let _ = AutoStream::new(io::stderr(), self.color).write_all(text.as_bytes());
    }
}

/// The value of `--color`, found before parsing; automatic if it is missing or invalid. The parser reports invalid values.
pub(super) fn color_choice(arguments: &[OsString]) -> ColorChoice {
    let words: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    let value = words.iter().enumerate().find_map(|(position, word)| match word.strip_prefix("--color")? {
        "" => words.get(position + 1).map(ToString::to_string),
        rest => rest.strip_prefix('=').map(str::to_owned),
    });
    value.and_then(|value| ColorChoice::from_str(&value, false).ok()).unwrap_or_default()
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
