//! The command line: arguments, output and exit codes.
//!
//! `arguments` defines all commands; each command has its own module. No command prints a secret or a token.

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

/// Exit code of a failed command. `clap` exits with 2 for wrong usage.
const EXIT_FAILURE: u8 = 1;

/// Runs the command and returns its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Help and usage errors are written during parsing, so the color choice is read first.
    let matches = CommandLine::command().color(terminal::color_choice(&arguments)).get_matches_from(arguments);
    let line = match CommandLine::from_arg_matches(&matches) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let terminal = Terminal::new(line.color);
    // Every command reads secrets.
    let core_dumps_disabled = core_dumps::disable().map_err(CommandError::context("core dumps cannot be switched off"));
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
