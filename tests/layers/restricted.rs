//! Two things are named only in listed places: the proxy library, and statuses of failures.

use crate::{
    paths::{self, Source},
    sources,
};

/// The top-level modules that may name the proxy library: the composition root and the two listeners.
const PINGORA_MODULES: [&str; 3] = ["app", "server", "admin"];
/// The files that may name the status of a failure: the one that chooses it for clients, the operators' listener, and the
/// clients of Salesforce's services, which read the statuses of responses.
const STATUS_FILES: [&str; 4] = ["src/gateway/problem.rs", "src/admin.rs", "src/admin/", "src/salesforce/"];
/// The statuses of 1xx, 2xx and 3xx. All other constants of `StatusCode` are failures.
const SUCCESSES: [&str; 8] =
    ["CONTINUE", "SWITCHING_PROTOCOLS", "OK", "CREATED", "ACCEPTED", "NO_CONTENT", "FOUND", "SEE_OTHER"];

/// Returns a line for each restricted name in a file that may not have it.
fn violations(source: &Source) -> Vec<String> {
    let file = &source.file;
    let module = file.trim_start_matches("src/").split(['/', '.']).next().unwrap();
    let mut found = Vec::new();
    for named in paths::named_in(source) {
        let place = format!("{file}:{}", named.line);
        if named.path[0].starts_with("pingora") && named.path.len() > 1 && !PINGORA_MODULES.contains(&module) {
            found.push(format!("{place}: pingora is named in {module}"));
        }
        let status = named.path.windows(2).find_map(|pair| is_failure(&pair[0], &pair[1]).then(|| pair.join("::")));
        let may_fail = named.is_in_test || STATUS_FILES.iter().any(|allowed| file.starts_with(allowed));
        if let Some(status) = status.filter(|_| !may_fail) {
            found.push(format!("{place}: {status} is a failure status outside {}", STATUS_FILES[0]));
        }
    }
    found
}

fn is_failure(of: &str, name: &str) -> bool {
    let is_constant = name.chars().all(|character| character.is_ascii_uppercase() || character == '_');
    let may_fail = is_constant && !SUCCESSES.contains(&name) || matches!(name, "from_u16" | "try_from" | "*");
    of == "StatusCode" && may_fail
}

#[test]
fn pingora_and_failure_statuses_are_named_only_in_the_listed_files() {
    let found: Vec<String> = paths::parsed(&sources::of_src()).iter().flat_map(violations).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

fn planted(file: &str, text: &str) -> Vec<String> {
    violations(&paths::parsed(&[(file.to_owned(), text.to_owned())])[0])
}

#[test]
fn planted_pingora_and_planted_statuses_are_found() {
    for (file, text, words) in [
        ("src/gateway/path.rs", "use pingora::proxy::Session;", "pingora is named in gateway"),
        ("src/gateway/path.rs", "use pingora::{proxy::Session};", "pingora is named in gateway"),
        ("src/jwks.rs", "fn f(error: ::pingora::Error) {}", "pingora is named in jwks"),
        ("src/jwks.rs", "#[cfg(test)] mod tests { use pingora::Error; }", "pingora is named in jwks"),
        ("src/server.rs", "fn f() { LocalResponse::empty(StatusCode::BAD_GATEWAY) }", "a failure status"),
        (
            "src/gateway/legacy.rs",
            "fn f() { LocalResponse::empty(http::StatusCode::UNAUTHORIZED) }",
            "a failure status",
        ),
        ("src/gateway/slas.rs", "fn f() { StatusCode::from_u16(404) }", "a failure status"),
        ("src/gateway/slas.rs", "fn f() { matches!(x, StatusCode::CONFLICT) }", "a failure status"),
        ("src/gateway/slas.rs", "fn f() { select! { x => StatusCode::CONFLICT } }", "a failure status"),
    ] {
        let found = planted(file, text);
        assert!(found.len() == 1 && found[0].contains(words), "{file}: {text}: {found:?}");
    }
}

#[test]
fn allowed_names_of_pingora_and_statuses_are_no_violation() {
    for (file, text) in [
        ("src/server/tls.rs", "use pingora::proxy::Session;"),
        ("src/jwks.rs", "const CAPPED: &str = \"pingora::\"; fn is_pingora() {}"),
        ("src/gateway/problem.rs", "fn f() { let status = StatusCode::FORBIDDEN; }"),
        ("src/gateway/slas.rs", "fn f() { let status = StatusCode::NO_CONTENT; }"),
        ("src/gateway/slas.rs", "#[cfg(test)]\nmod tests { fn f() { StatusCode::CONFLICT; } }"),
        ("src/gateway/slas/tests.rs", "fn f() { StatusCode::CONFLICT; }"),
    ] {
        assert_eq!(planted(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}
