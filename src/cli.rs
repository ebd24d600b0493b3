//! The command line: what an operator types, and what comes back as text and as an exit code.
//!
//! Owns the meaning of the exit codes. Each command is a room of its own; `arguments` has the words of all of them. What the
//! gateway does is decided below. Nothing here prints a secret or a token.

mod arguments;
mod check;
mod error;
mod manual;
mod online;
mod routes;
mod serve;
mod terminal;
mod token;

use std::{ffi::OsString, process::ExitCode};

use clap::{CommandFactory, FromArgMatches};

use self::{
    arguments::{Command, CommandLine, TokenCommand},
    error::CommandError,
    terminal::Terminal,
};
use crate::{app::process::core_dumps, config};

/// Exit code for whatever was asked for and did not come to be; clap's own for wrong usage is 2.
const EXIT_FAILURE: u8 = 1;

/// Does what the arguments ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Help and usage errors are written before anything is parsed, so their colours are looked for first.
    let matches = CommandLine::command().color(terminal::color_choice(&arguments)).get_matches_from(arguments);
    let line = match CommandLine::from_arg_matches(&matches) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let terminal = Terminal::new(line.color);
    // Every command reads secrets.
    let core_dumps_disabled = core_dumps::disable();
    let core_dumps_disabled =
        core_dumps_disabled.map_err(|error| CommandError::Other(format!("core dumps cannot be switched off: {error}")));
    let result = core_dumps_disabled.and_then(|()| match line.command {
        Command::Serve(file) => serve::serve(&file, &terminal),
        Command::Check { file, online } => check::check(&file, online, &terminal),
        Command::Routes(file) => routes::routes(&file, &terminal),
        Command::Schema => terminal.print(&format!("{:#}\n", config::schema())),
        Command::Token(TokenCommand::Inspect { config }) => token::inspect(config.as_deref(), &terminal),
        Command::Completions { shell } => manual::completions(shell, &terminal),
        Command::Man => manual::print_page(&terminal),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal.print_error(&error);
            ExitCode::from(EXIT_FAILURE)
        }
    }
}
