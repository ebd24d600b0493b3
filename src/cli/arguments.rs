//! The arguments of the command line and their help. The man page and the completions are generated from them.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};
use clap_complete::Shell;

/// Reverse proxy in front of the Salesforce B2C Commerce Shopper APIs.
#[derive(Parser)]
#[command(
    version,
    about,
    after_help = "Examples:
  shopper-gateway check  -c config/demo.toml     report all errors of a configuration
  shopper-gateway serve  -c config/demo.toml     run the gateway
  shopper-gateway routes -c config/demo.toml     list operations and their allowed callers
  shopper-gateway schema > gateway.schema.json   write a JSON Schema for an editor
  shopper-gateway token inspect < token          explain a token

Environment variables override keys of the configuration: SHOPPER_GATEWAY__SERVER__THREADS=4.

Exit codes:
  0  success. serve: stopped by a signal; check: no errors; token inspect: no check failed
  1  failure: invalid configuration, or output could not be written. serve: the start failed;
     check --online: an endpoint failed; token inspect: the gateway would reject the token
  2  wrong usage: unknown or missing command, option or value"
)]
pub(super) struct CommandLine {
    #[command(subcommand)]
    pub(super) command: Command,
    /// When to use colors; NO_COLOR turns them off too
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: ColorChoice,
}

#[derive(Subcommand)]
pub(super) enum Command {
    /// Run the gateway until SIGTERM or Ctrl-C
    #[command(after_help = "Examples:
  shopper-gateway serve -c /etc/shopper-gateway/gateway.toml
  SHOPPER_GATEWAY__LOG__FORMAT=text shopper-gateway serve -c config/demo.toml

Exit codes: 0 stopped by a signal, 1 invalid configuration or failed start, 2 wrong usage.")]
    Serve(ConfigFile),
    /// Check a configuration and report all errors with their keys
    #[command(after_help = "Examples:
  shopper-gateway check -c gateway.toml            check the file, the environment and the named files
  shopper-gateway check -c gateway.toml --online   also test the configured endpoints

--online fetches the key sets of each organization's SLAS and Account Manager, and gets a token with the gateway's Account
Manager client. It tests each SLAS client without getting a token: the secret of a private client, or the client id and redirect
URI of a public one. It also tests the session store and the trace collector. Each test prints one line; a failed one names the
key to look at. --online changes nothing at the endpoints and prints no secrets.

Exit codes: 0 no errors (perhaps warnings), 1 an error or a failed endpoint, 2 wrong usage.")]
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Also test the configured endpoints
        #[arg(long)]
        online: bool,
    },
    /// Print the policy table: method, path, operation, allowed callers, upstream credential
    #[command(after_help = "Examples:
  shopper-gateway routes -c gateway.toml | column -ts $'\\t' | less -S
  shopper-gateway routes -c gateway.toml | grep experience-cloud    operations of one trusted system

Exit codes: 0 success, 1 invalid configuration, 2 wrong usage.")]
    Routes(ConfigFile),
    /// Print the JSON Schema of the configuration
    #[command(after_help = "Example:
  shopper-gateway schema > gateway.schema.json

Exit codes: 0 success, 1 output could not be written, 2 wrong usage.")]
    Schema,
    /// Explain access tokens
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print completions for a shell
    #[command(after_help = "Examples:
  shopper-gateway completions bash > /etc/bash_completion.d/shopper-gateway
  shopper-gateway completions zsh  > \"${fpath[1]}/_shopper-gateway\"
  shopper-gateway completions fish > ~/.config/fish/completions/shopper-gateway.fish

The Debian package installs them.

Exit codes: 0 success, 1 output could not be written, 2 wrong usage, e.g. an unknown shell.")]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    #[command(after_help = "Examples:
  shopper-gateway man > /usr/local/share/man/man1/shopper-gateway.1
  shopper-gateway man | man -l -

Exit codes: 0 success, 1 output could not be written, 2 wrong usage.")]
    Man,
}

#[derive(Subcommand)]
pub(super) enum TokenCommand {
    /// Explain a JWT from standard input: claims, times, allowed operations, reasons for rejection
    #[command(after_help = "Examples:
  printenv TOKEN | shopper-gateway token inspect           without checking the signature
  shopper-gateway token inspect -c gateway.toml < token    as this gateway would verify it

The token is read from standard input, so that it appears in no process list and no shell history: the token alone, \"Bearer …\",
or a whole line \"Authorization: Bearer …\". Neither the token nor its signature is printed. Claims are printed, and they may
identify a shopper.

Exit codes: 0 no check failed, 1 the gateway would reject the token (also because keys are unavailable), it is no token, or the
configuration is invalid, 2 wrong usage.")]
    Inspect {
        /// Verify the token as a gateway with this configuration would; fetches the issuer's keys
        #[arg(short, long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Args)]
pub(super) struct ConfigFile {
    /// Configuration file, TOML
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}
