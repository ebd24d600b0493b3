//! The arguments of the command line, and the help that is printed for them.
//!
//! `manual` reads the same definitions.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};
use clap_complete::Shell;

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
pub(super) struct CommandLine {
    #[command(subcommand)]
    pub(super) command: Command,
    /// When to use colours; NO_COLOR is respected too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: ColorChoice,
}

#[derive(Subcommand)]
pub(super) enum Command {
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
pub(super) enum TokenCommand {
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
pub(super) struct ConfigFile {
    /// The configuration, TOML
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}
