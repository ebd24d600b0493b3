//! `man` and `completions`, for packages. Both are generated from the definitions in `arguments`.

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::{arguments::CommandLine, error::CommandError, terminal::Terminal};

const NAME: &str = "shopper-gateway";

pub(super) fn completions(shell: Shell, terminal: &Terminal) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), NAME, &mut script);
    terminal.print(&String::from_utf8_lossy(&script))
}

/// Prints one page for all commands: first the global options, then each command.
pub(super) fn print_page(terminal: &Terminal) -> Result<(), CommandError> {
    let mut whole = CommandLine::command().disable_help_subcommand(true);
    whole.build();
    let mut page = Vec::new();
    render(&whole, &mut page).map_err(CommandError::from_display)?;
    terminal.print(&String::from_utf8_lossy(&page))
}

fn render(whole: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    let man = Man::new(whole.clone()).manual("shopper-gateway manual");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    let mut commands = Roff::new();
    commands.control("SH", ["COMMANDS"]);
    for command in whole.get_subcommands() {
        describe_command(command, NAME, &mut commands);
    }
    commands.to_writer(page)?;
    let mut rest = Roff::new();
    let (examples, codes) = whole.get_after_help().map(ToString::to_string).map_or_else(Default::default, |help| {
        help.split_once("Exit codes:").map_or((help.clone(), String::new()), |(examples, codes)| {
            (examples.trim_start_matches("Examples:").to_owned(), codes.to_owned())
        })
    });
    for (heading, text) in [("EXAMPLES", examples), ("EXIT STATUS", codes)] {
        rest.control("SH", [heading]);
        preformatted(&text, &mut rest);
    }
    rest.control("SH", ["ENVIRONMENT"]);
    rest.text([roman(
        "SHOPPER_GATEWAY__SECTION__KEY sets a key of the configuration and overrides the file. RUST_LOG overrides log.level. \
         NO_COLOR turns colors off.",
    )]);
    rest.to_writer(page)
}

fn describe_command(command: &clap::Command, before: &str, page: &mut Roff) {
    let name = format!("{before} {}", command.get_name());
    if command.has_subcommands() {
        for below in command.get_subcommands() {
            describe_command(below, &name, page);
        }
        return;
    }
    page.control("SS", [command.clone().bin_name(&name).render_usage().to_string().trim_start_matches("Usage: ")]);
    page.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    for argument in command.get_arguments().filter(|argument| !argument.is_global_set() && argument.get_id() != "help")
    {
        page.control("TP", []);
        let takes_value = argument.get_action().takes_values();
        let value = argument.get_value_names().filter(|_| takes_value).and_then(|names| names.first());
        let value = value.map(ToString::to_string).unwrap_or_default();
        let named = argument.get_long().map_or(value.clone(), |long| format!("--{long} {value}").trim_end().to_owned());
        page.text([bold(argument.get_short().map_or(named.clone(), |short| format!("-{short}, {named}")))]);
        page.text([roman(argument.get_help().map(ToString::to_string).unwrap_or_default())]);
    }
    if let Some(help) = command.get_after_help() {
        page.control("PP", []);
        preformatted(&help.to_string(), page);
    }
}

/// Adds a text without filling its lines.
fn preformatted(text: &str, page: &mut Roff) {
    page.control("nf", []);
    for line in text.trim_matches('\n').lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
}
