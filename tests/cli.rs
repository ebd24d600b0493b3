//! The built binary as an operator starts it: arguments and environment in, text and an exit code out.
//!
//! Only behaviour of the process is tested here. The meaning of a configuration is tested in `config_files.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that meets the unexpected has failed"
)]

mod serving;

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use salesforce_simulator::Seed;
use serving::{Serving, eventually};

const BINARY: &str = env!("CARGO_BIN_EXE_shopper-gateway");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/demo.toml");
/// Maximum of private memory of a gateway without load.
const IDLE_MEBIBYTES: u64 = 16;

/// `shopper-gateway check` of the demo's configuration, with these variables as the whole environment.
fn check<'a>(environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Output {
    run("check", environment)
}

/// A subcommand with the demo's configuration.
fn run<'a>(subcommand: &str, environment: impl IntoIterator<Item = (&'a str, &'a OsStr)>) -> Output {
    let mut command = Command::new(BINARY);
    command.args([subcommand, "-c", DEMO]).env_clear().envs(environment).output().unwrap()
}

/// The status of a GET.
fn status(address: SocketAddr, target: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_reads_environment_and_names_its_variables_in_errors() {
    let plain = check([]);
    assert!(plain.status.success() && text(&plain.stdout).contains(": ok: 1 organization, "), "{plain:?}");

    let second = [
        ("SHOPPER_GATEWAY__TENANTS__1__ORGANIZATION_ID", "f_ecom_zzrf_002"),
        ("SHOPPER_GATEWAY__TENANTS__1__API", "https://two.example.com"),
        ("SHOPPER_GATEWAY__TENANTS__1__SITES", "RefArch"),
    ];
    let second = check(second.map(|(name, text)| (name, OsStr::new(text))));
    assert!(second.status.success() && text(&second.stdout).contains(": ok: 2 organizations"), "{second:?}");

    let wrong = check([
        ("SHOPPER_GATEWAY__SERVER__THRAEDS", OsStr::new("PLANTED")),
        ("SHOPPER_GATEWAY__LOG__LEVEL", OsStr::from_bytes(b"PLANTED\xff")),
        ("ANOTHER_PROGRAM", OsStr::from_bytes(b"\xff")),
    ]);
    assert_eq!(wrong.status.code(), Some(1), "{wrong:?}");
    let shown = text(&wrong.stderr);
    for expected in [
        "error: SHOPPER_GATEWAY__SERVER__THRAEDS: unknown key; did you mean SHOPPER_GATEWAY__SERVER__THREADS?\n",
        "error: SHOPPER_GATEWAY__LOG__LEVEL: not valid UTF-8\n",
    ] {
        assert!(shown.contains(expected), "{expected} not in:\n{shown}");
    }
    assert!(!shown.contains("PLANTED") && !shown.contains("ANOTHER_PROGRAM") && wrong.stdout.is_empty(), "{shown}");
}

#[test]
fn check_reports_invalid_and_duplicate_caller_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let mut configuration = fs::read_to_string(DEMO).unwrap();
    for key in ["certificate", "private_key", "client_ca"] {
        let path = file(key, "nothing of use");
        configuration = configuration.replace("[admin]", &format!("tls.{key} = \"{}\"\n[admin]", path.display()));
    }
    let names = [
        "certificate_subject = 'oms.example.com'",
        "certificate_subject = 'CN=oms, O=Example'",
        "certificate_san = 'oms.example.com'",
        "certificate_san = 'IP:192.0.2.1'",
        "certificate_subject = 'CN=a\\,b,O=Example'",
        "certificate_subject = 'cn=a\\2cb,o=Example'",
        "certificate_san = 'DNS:OMS.example.com'",
        "certificate_san = 'DNS:oms.example.com'",
    ];
    for (number, name) in names.iter().enumerate() {
        configuration.push_str(&format!(
            "\n[[callers]]\nname = \"caller-{number}\"\n{name}\nmay = [\"system\"]\norganizations = [\"f_ecom_zzrf_001\"]\noperations = [\"orders.*\"]\n"
        ));
    }
    let path = file("gateway.toml", &configuration);
    let output = Command::new(BINARY).args(["check", "-c", path.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output.stderr);
    // The listener's files are wrong too, and are reported.
    let errors: Vec<&str> = shown.lines().filter(|line| line.starts_with("error: callers[")).collect();
    let expected = [
        "callers[1].certificate_subject: not a subject",
        "callers[2].certificate_subject: not a subject",
        "callers[3].certificate_san: not an alternative name",
        "callers[4].certificate_san: not an alternative name",
        "callers[6].certificate_subject: another caller has the same certificate name",
        "callers[8].certificate_san: another caller has the same certificate name",
    ];
    assert_eq!(errors.len(), expected.len(), "{shown}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

#[test]
fn demo_prints_each_step() {
    let folder = Path::new(BINARY).parent().unwrap();
    let demo: PathBuf = folder.join("examples/demo");
    let output = Command::new(&demo).arg("--once").output().unwrap();
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    let steps = [
        "Starting a simulated Salesforce",
        "Starting the gateway in front of it",
        "1. A guest logs in at the deprecated endpoint",
        "HTTP/1.1 200 OK",
        "uthorization: Bearer ",
        "2. The guest creates a basket",
        "HTTP/1.1 200 OK",
        "3. A registered shopper logs in",
        "HTTP/1.1 200 OK",
        "4. The shopper's profile",
        "HTTP/1.1 200 OK",
        "5. The shopper creates a basket",
        "HTTP/1.1 200 OK",
        "6. A trusted system lists orders",
        "HTTP/1.1 200 OK",
        "7. The same system reads the basket on behalf of the shopper",
        "HTTP/1.1 200 OK",
        "8. The gateway rejects a request without a token",
        "HTTP/1.1 401 Unauthorized",
        "token_missing",
        "Done",
    ];
    let mut rest = shown.as_str();
    for step in steps {
        let Some((_, after)) = rest.split_once(step) else { panic!("{step:?} is not next in:\n{shown}") };
        rest = after;
    }
}

#[test]
fn serve_reports_all_configuration_errors() {
    let output = run(
        "serve",
        [
            ("SHOPPER_GATEWAY__SERVER__THRAEDS", OsStr::new("4")),
            ("SHOPPER_GATEWAY__TIMEOUTS__UPSTREAM", OsStr::new("soon")),
            ("SHOPPER_GATEWAY__TENANTS__0__API", OsStr::new("ftp://a")),
        ],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let shown = text(&output.stderr);
    for key in ["SERVER__THRAEDS", "TIMEOUTS__UPSTREAM", "TENANTS__0__API"] {
        assert!(shown.contains(key), "{key} not in:\n{shown}");
    }
    assert!(output.stdout.is_empty() && !shown.contains("panicked"), "{shown}");
}

#[test]
fn serve_names_the_key_of_an_address_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (variable, other, key) in [
        ("SHOPPER_GATEWAY__SERVER__LISTEN", "SHOPPER_GATEWAY__ADMIN__LISTEN", "server.listen: "),
        ("SHOPPER_GATEWAY__ADMIN__LISTEN", "SHOPPER_GATEWAY__SERVER__LISTEN", "admin.listen: "),
    ] {
        let output = run("serve", [(variable, OsStr::new(&address)), (other, OsStr::new("127.0.0.1:0"))]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let shown = text(&output.stderr);
        let line = shown.lines().last().unwrap();
        assert!(line.starts_with(&format!("error: {key}")) && line.contains(&address), "{shown}");
    }
}

#[test]
fn listener_files_are_checked_before_serving() {
    let environment = [
        ("SHOPPER_GATEWAY__SERVER__TLS__CERTIFICATE", OsStr::new(DEMO)),
        ("SHOPPER_GATEWAY__SERVER__TLS__PRIVATE_KEY", OsStr::new("/dev/null")),
        ("SHOPPER_GATEWAY__SERVER__LISTEN", OsStr::new("127.0.0.1:0")),
        ("SHOPPER_GATEWAY__ADMIN__LISTEN", OsStr::new("127.0.0.1:0")),
    ];
    for subcommand in ["check", "serve"] {
        let output = run(subcommand, environment);
        assert_eq!(output.status.code(), Some(1), "{subcommand}: {output:?}");
        let shown = text(&output.stderr);
        assert!(shown.contains("server.tls."), "{shown}");
        assert!(!shown.contains("listening") && !shown.contains("panicked"), "{shown}");
    }
}

#[test]
fn routes_prints_one_line_per_operation() {
    let output = run("routes", []);
    assert!(output.status.success(), "{output:?}");
    let shown = text(&output.stdout);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(lines.len(), 1 + 443);
    assert_eq!(lines[0], ["METHOD", "PATH", "OPERATION", "ALLOWED CALLERS", "UPSTREAM CREDENTIAL"]);
    assert!(lines.iter().all(|line| line.len() == 5 && line.iter().all(|field| !field.is_empty())));
}

#[test]
fn routes_marks_operations_that_roles_decide() {
    let table = text(&run("routes", []).stdout);
    let line = table.lines().find(|line| line.contains("\tauth-admin.retrieveTenant\t")).unwrap();
    let expected = "by role; Salesforce requires any of: SLAS_SERVICE_ADMIN SLAS_ORGANIZATION_ADMIN\t";
    assert!(line.contains(expected), "{line}");
    assert_eq!(table.lines().filter(|line| line.contains(", by role; ")).count(), 14);
}

#[test]
fn routes_names_clients_whose_credential_is_added() {
    let line = |environment: &[(&'static str, &OsStr)]| {
        let output = run("routes", environment.iter().copied());
        let table = text(&output.stdout);
        table.lines().find(|line| line.contains("\tauth.getAccessToken\t")).unwrap().to_owned()
    };
    let (acting, other) = ("22222222-2222-4222-8222-222222222222", "33333333-3333-4333-8333-333333333333");
    assert!(
        line(&[]).ends_with(&format!("if it has none, Basic of the private client that is named ({acting}, {other})"))
    );
    let excluded = line(&[("SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__1__VOUCH", OsStr::new("false"))]);
    assert!(excluded.ends_with(&format!("({other})")), "{excluded}");
}

#[test]
fn routes_marks_switched_off_deprecated_logins_as_refused() {
    let switched_off = [("SHOPPER_GATEWAY__POLICY__DEPRECATED_LOGINS", OsStr::new("refuse"))];
    for (environment, expected) in [(&switched_off[..], 3), (&[][..], 0)] {
        let output = run("routes", environment.iter().copied());
        let table = text(&output.stdout);
        let refused = table.lines().filter(|line| line.contains("none; rejected by policy.deprecated_logins"));
        assert_eq!(refused.count(), expected, "{table}");
    }
}

#[test]
fn schema_prints_json_schema() {
    let output = Command::new(BINARY).arg("schema").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema["$schema"].is_string() && schema["properties"]["tenants"].is_object());
}

#[test]
fn wrong_usage_exits_with_2_and_failed_start_with_1() {
    for arguments in [&[][..], &["serve"], &["serve", "-c"], &["walk"], &["routes", "--json"]] {
        assert_eq!(Command::new(BINARY).args(arguments).output().unwrap().status.code(), Some(2), "{arguments:?}");
    }
    let missing = Command::new(BINARY).args(["serve", "-c", "/nowhere.toml"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("/nowhere.toml"), "{missing:?}");
}

#[test]
fn serve_exits_with_0_on_term_or_int_before_ready() {
    for signal in ["-TERM", "-INT"] {
        let mut serving = Serving::start([("SHOPPER_GATEWAY__TENANTS__0__API", "http://127.0.0.1:9")]);
        let admin = serving.address("listening for operators");
        assert_eq!((status(admin, "/livez"), status(admin, "/readyz")), (200, 503));
        serving.signal(signal);
        assert_eq!(serving.code(), Some(0), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_gateway_uses_less_than_16_mib() {
    let simulator = salesforce_simulator::start(SocketAddr::from(([127, 0, 0, 1], 0)), Seed::default()).await.unwrap();
    let url = simulator.url();
    let mut serving = Serving::start([
        ("SHOPPER_GATEWAY__TENANTS__0__API", url.as_str()),
        ("SHOPPER_GATEWAY__TENANTS__0__ACCOUNT_MANAGER__URL", url.as_str()),
    ]);
    let admin = serving.address("listening for operators");
    eventually("it is ready", || status(admin, "/readyz") == 200);
    let mebibytes = serving.own_mebibytes();
    println!("idle: {mebibytes} MiB of its own");
    assert!(mebibytes < IDLE_MEBIBYTES, "{mebibytes} MiB");
    serving.signal("-TERM");
    assert_eq!(serving.code(), Some(0));
}
