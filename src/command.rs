//! The command line: what an operator types, and what comes back as text and as an exit code.
//!
//! Owns the words of the commands and the meaning of the exit codes. Each command is a room of its own; what the gateway
//! does is decided below. Nothing here prints a secret or a token.

mod check;
mod manual;
mod online;
mod routes;
mod serve;
mod terminal;
mod token;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

use self::terminal::Terminal;
use crate::{
    app, core_dumps,
    settings::{self, ConfigErrors, Loaded},
};

/// Exit code for whatever was asked for and did not come to be; clap's own for wrong usage is 2.
const FAILED: u8 = 1;

/// Reverse proxy in front of the Salesforce B2C Commerce Shopper APIs.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  shopper-gateway check  -c config/demo.toml     every error of a configuration at once
  shopper-gateway serve  -c config/demo.toml     run the gateway
  shopper-gateway routes -c config/demo.toml     what is let through, for whom
  shopper-gateway schema > gateway.schema.json   JSON Schema for an editor
  shopper-gateway token inspect < token          what a token says, and may

Every key can also come from the environment: SHOPPER_GATEWAY__SERVER__THREADS=4.

Exit codes:
  0  done. serve: a signal ended it; check: nothing is wrong; token inspect: nothing speaks against the token
  1  not done: the configuration is wrong, or output could not be written. serve: the start failed;
     check --online: an endpoint failed; token inspect: the token would be refused, or is none
  2  wrong usage: a command, an option or its value that there is not, or one that is missing"
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
    /// When to use colours; NO_COLOR is respected too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: ColorChoice,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  shopper-gateway serve -c /etc/shopper-gateway/gateway.toml
  SHOPPER_GATEWAY__LOG__FORMAT=text shopper-gateway serve -c config/demo.toml

Exit codes: 0 stopped by a signal, 1 the configuration is wrong or the start failed, 2 wrong usage.")]
    Serve(ConfigFile),
    /// Check a configuration and report every error with its key
    #[command(after_help = "Examples:
  shopper-gateway check -c gateway.toml            the file, the environment, the files that it names
  shopper-gateway check -c gateway.toml --online   and whether what it names answers

--online fetches the keys of each organization's SLAS and Account Manager, gets a token with the gateway's own client of
Account Manager, tries each client of SLAS without getting a token (a private one's secret, a public one's id and redirect
URI), and asks the session store and the collector of traces, one line each; a failed one names the key. It changes nothing
there and prints no secret.

Exit codes: 0 nothing is wrong (there may be warnings), 1 an error or a failed endpoint, 2 wrong usage.")]
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Also try the configured endpoints
        #[arg(long)]
        online: bool,
    },
    /// Print the effective table: method, path, operation, who may call it, which credential goes upstream
    #[command(after_help = "Examples:
  shopper-gateway routes -c gateway.toml | column -ts $'\\t' | less -S
  shopper-gateway routes -c gateway.toml | grep experience-cloud    what one trusted system may call

Exit codes: 0 done, 1 the configuration is wrong, 2 wrong usage.")]
    Routes(ConfigFile),
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Example:
  shopper-gateway schema > gateway.schema.json

Exit codes: 0 done, 1 it could not be written, 2 wrong usage.")]
    Schema,
    /// Explain access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print completions for a shell
    #[command(after_help = "Examples:
  shopper-gateway completions bash > /etc/bash_completion.d/shopper-gateway
  shopper-gateway completions zsh  > \"${fpath[1]}/_shopper-gateway\"
  shopper-gateway completions fish > ~/.config/fish/completions/shopper-gateway.fish

The Debian package has them installed already.

Exit codes: 0 done, 1 it could not be written, 2 wrong usage, such as a shell that is not known.")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = "Examples:
  shopper-gateway man > /usr/local/share/man/man1/shopper-gateway.1
  shopper-gateway man | man -l -

Exit codes: 0 done, 1 it could not be written, 2 wrong usage.")]
    Man,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Explain a JWT read from standard input: its claims, its times, what it may call, why it would be refused
    #[command(after_help = "Examples:
  printenv TOKEN | shopper-gateway token inspect          what it says; its signature is not checked
  shopper-gateway token inspect -c gateway.toml < token    as this gateway sees it, with its issuer's keys

The token is read from standard input, so that it stands in no list of processes and no history: alone, as \"Bearer …\", or as a
whole line \"Authorization: Bearer …\". Neither it nor its signature is printed; its claims are, and they may name a shopper.

Exit codes: 0 nothing speaks against it, 1 it would be refused (also for want of keys), is no token, or the configuration is
wrong, 2 wrong usage.")]
    Inspect {
        /// Judge it as the gateway with this configuration would, and fetch its issuer's keys
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Args)]
struct ConfigFile {
    /// The configuration, TOML
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// In words that have been said already.
    #[error("")]
    Said,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn of(error: impl ToString) -> Self {
        Self::Other(error.to_string())
    }
}

/// Does what the arguments ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Help and usage errors are written before anything is parsed, so their colours are looked for first.
    let matches = CommandLine::command().color(terminal::choice_among(&arguments)).get_matches_from(arguments);
    let line = match CommandLine::from_arg_matches(&matches) {
        Ok(line) => line,
        Err(error) => error.exit(),
    };
    let terminal = Terminal::new(line.color);
    // Every command reads secrets.
    let no_dumps = core_dumps::forbid();
    let no_dumps = no_dumps.map_err(|error| Failure::Other(format!("core dumps cannot be switched off: {error}")));
    let result = no_dumps.and_then(|()| match line.command {
        Command::Serve(file) => serve::serve(&file, &terminal),
        Command::Check { file, online } => check::check(&file, online, &terminal),
        Command::Routes(file) => routes::routes(&file, &terminal),
        Command::Schema => terminal.print(&format!("{:#}\n", settings::schema())),
        Command::Token(TokenCommand::Inspect { config }) => token::inspect(config.as_deref(), &terminal),
        Command::Completions { shell } => manual::completions(shell, &terminal),
        Command::Man => manual::page(&terminal),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            terminal.report(&failure);
            ExitCode::from(FAILED)
        }
    }
}

/// The one way to a configuration, so that every command finds the same errors in it.
fn load(file: &Path) -> Result<Loaded, Failure> {
    Ok(app::load(file)?)
}
