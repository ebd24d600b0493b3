//! The command line: help, manual page, completions, colours, and the output of `check`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected has failed")]

mod certificate_files;
mod connect_failures;
mod diagnostics;
mod online;
#[path = "../serving/mod.rs"]
mod serving;

use std::{
    fs,
    net::TcpListener,
    process::{Command, Output, Stdio},
};

const BINARY: &str = env!("CARGO_BIN_EXE_shopper-gateway");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.toml");

/// The commands and their own commands, as they are typed.
const COMMANDS: [&[&str]; 7] =
    [&["serve"], &["check"], &["routes"], &["schema"], &["token", "inspect"], &["completions"], &["man"]];

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(environment.iter().copied()).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn printed(arguments: &[&str]) -> String {
    let output = run(arguments, &[]);
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

#[test]
fn help_of_each_command_has_example_and_exit_codes() {
    let whole = printed(&["--help"]);
    assert!(whole.contains("Examples:") && whole.contains("Exit codes:"), "{whole}");
    for command in COMMANDS {
        assert!(whole.contains(&format!("  {} ", command[0])), "{command:?} is not in:\n{whole}");
        let help = printed(&[command, &["--help"]].concat());
        assert!(help.contains("Example") && help.contains(&format!("shopper-gateway {}", command.join(" "))), "{help}");
    }
}

/// The description of each exit code in a text: from its number to the next one.
fn meanings<'t>(text: &'t str, heading: &str) -> [&'t str; 3] {
    let codes = text.split_once(heading).unwrap_or_else(|| panic!("no {heading} in:\n{text}")).1;
    let place = |code: &str| codes.find(code).unwrap_or_else(|| panic!("no {code} in:\n{codes}"));
    let [done, failed, usage] = [" 0 ", " 1 ", " 2 "].map(place);
    [&codes[done..failed], &codes[failed..usage], &codes[usage..]]
}

#[test]
fn exit_codes_are_documented_in_help_and_manual_page() {
    for command in COMMANDS {
        let help = printed(&[command, &["--help"]].concat());
        let [done, failed, usage] = meanings(&help, "Exit codes:");
        assert!(done.len() > 6 && failed.len() > 6 && usage.contains("wrong usage"), "{help}");
    }
    let inspect = printed(&["token", "inspect", "--help"]);
    let [good, refused, _] = meanings(&inspect, "Exit codes:");
    assert!(good.contains("no check failed") && refused.contains("would reject the token"), "{inspect}");
    let (help, page) = (printed(&["--help"]), printed(&["man"]));
    let page = page.replace("\\-", "-");
    for (text, heading) in [(&help, "Exit codes:"), (&page, ".SH \"EXIT STATUS\"")] {
        let [done, failed, usage] = meanings(text, heading);
        assert!(["serve:", "check:", "token inspect:"].iter().all(|command| done.contains(command)), "{done}");
        assert!(["serve:", "check --online:", "token inspect:"].iter().all(|one| failed.contains(one)), "{failed}");
        assert!(usage.contains("wrong usage"), "{usage}");
    }
}

#[test]
fn exit_codes_match_documentation() {
    for (arguments, code) in [
        (&["schema"][..], 0),
        (&["man"], 0),
        (&["check", "-c", DEMO], 0),
        (&["check", "-c", "nowhere.toml"], 1),
        (&["routes", "-c", "nowhere.toml"], 1),
        (&["serve", "-c", "nowhere.toml"], 1),
        (&["token", "inspect", "-c", "nowhere.toml"], 1),
        (&["token", "inspect"], 1),
        (&["check"], 2),
        (&["walk"], 2),
        (&["token", "inspect", "--loudly"], 2),
    ] {
        assert_eq!(run(arguments, &[]).status.code(), Some(code), "{arguments:?}");
    }
}

#[test]
fn manual_page_is_well_formed_and_names_every_command() {
    let page = printed(&["man"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shopper-gateway.1");
    fs::write(&file, &page).unwrap();
    let shown = Command::new("man").args(["--warnings", "-l"]).arg(&file).env("MANWIDTH", "100").output().unwrap();
    assert!(shown.status.success() && shown.stderr.is_empty(), "{shown:?}");
    let shown = text(&shown.stdout);
    for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT"]
    {
        assert!(shown.lines().any(|line| line == section), "{section} not in:\n{shown}");
    }
    for command in COMMANDS {
        let name = format!("shopper-gateway {}", command.join(" "));
        assert!(shown.contains(&name), "{name} not in:\n{shown}");
    }
    for option in ["--online", "--config", "--color"] {
        assert!(shown.contains(option), "{option} not in:\n{shown}");
    }
}

#[test]
fn completions_work_in_their_shell() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef shopper-gateway"), ("fish", "complete -c")] {
        let script = printed(&["completions", shell]);
        assert!(script.contains(word) && script.contains("inspect"), "{script}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("completions.bash");
    fs::write(&file, printed(&["completions", "bash"])).unwrap();
    // The completions that a shell offers for `shopper-gateway ch`.
    let line = "source $0; COMP_WORDS=(shopper-gateway ch); COMP_CWORD=1; _shopper__gateway shopper-gateway ch shopper-gateway; echo ${COMPREPLY[@]}";
    let offered = Command::new("bash").args(["-c", line]).arg(&file).output().unwrap();
    assert_eq!(text(&offered.stdout), "check\n", "{offered:?}");
    assert_eq!(run(&["completions", "tcsh"], &[]).status.code(), Some(2));
}

#[test]
fn colours_follow_options_and_environment() {
    let wrong = ("SHOPPER_GATEWAY__SERVER__LISTEN", "nowhere");
    // The gateway warns of the demo's secrets, and ends because it cannot listen on the address.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let taken = ("SHOPPER_GATEWAY__SERVER__LISTEN", address.as_str());
    for (arguments, environment, coloured) in [
        (&["check", "-c", DEMO][..], &[wrong][..], false),
        (&["check", "-c", DEMO, "--color", "always"], &[wrong], true),
        (&["--color=always", "check", "-c", DEMO], &[wrong, ("NO_COLOR", "1")], true),
        (&["check", "-c", DEMO], &[wrong, ("CLICOLOR_FORCE", "1")], true),
        (&["check", "-c", DEMO, "--color", "never"], &[wrong, ("CLICOLOR_FORCE", "1")], false),
        (&["serve", "-c", DEMO], &[taken], false),
        (&["serve", "-c", DEMO, "--color", "always"], &[taken], true),
        (&["serve", "-c", DEMO, "--color", "never"], &[taken, ("CLICOLOR_FORCE", "1")], false),
        (&["--help", "--color", "always"], &[], true),
        (&["--help", "--color", "never"], &[("CLICOLOR_FORCE", "1")], false),
        (&["walk", "--color", "always"], &[], true),
    ] {
        let output = run(arguments, environment);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(!shown.is_empty());
        assert_eq!(shown.contains('\u{1b}'), coloured, "{arguments:?} {environment:?}:\n{shown}");
    }
    let plain = text(&run(&["check", "-c", DEMO], &[wrong]).stderr);
    assert!(plain.starts_with("error: server.listen[0]: "), "{plain}");
}
