//! `check` reports every error of a configuration at once: of the settings, of the policy table, of the listener's TLS.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use crate::{
    BINARY, DEMO,
    serving::{Serving, eventually},
    text,
};

/// A folder with the demo's configuration, changed.
struct Changed {
    folder: TempDir,
}

impl Changed {
    fn new(change: impl FnOnce(&mut toml::Table, &Path)) -> Self {
        let changed = Self { folder: tempfile::tempdir().unwrap() };
        let mut table: toml::Table = fs::read_to_string(DEMO).unwrap().parse().unwrap();
        change(&mut table, changed.folder.path());
        fs::write(changed.file(), table.to_string()).unwrap();
        changed
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    fn run(&self, command: &[&str]) -> Output {
        Command::new(BINARY).args(command).arg("-c").arg(self.file()).env_clear().output().unwrap()
    }

    /// The keys of the errors that `check` reports, and nothing else.
    fn keys(&self) -> Vec<String> {
        let output = self.run(&["check"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let shown = text(&output.stderr);
        let lines = shown.lines().filter(|line| !line.starts_with("warning: "));
        let key = |line: &str| line.strip_prefix("error: ").and_then(|rest| rest.split(": ").next().map(str::to_owned));
        lines.map(|line| key(line).unwrap_or_else(|| panic!("{line:?} in:\n{shown}"))).collect()
    }
}

/// Configures the listener with these files.
fn listen_with(config: &mut toml::Table, files: toml::Value) {
    config["server"].as_table_mut().unwrap().insert("tls".into(), files);
}

fn table(text: &str) -> toml::Value {
    toml::Value::Table(text.parse().unwrap())
}

/// A certificate and a key that is not its own.
fn mismatched(folder: &Path) -> toml::Value {
    for name in ["one", "other"] {
        let files = ["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")].map(str::to_owned);
        let made = Command::new("openssl")
            .args(
                "req -x509 -days 100 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost".split(' '),
            )
            .args(files)
            .current_dir(folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        fs::set_permissions(folder.join(format!("{name}.key")), fs::Permissions::from_mode(0o600)).unwrap();
    }
    table("certificate = 'one.pem'\nprivate_key = 'other.key'")
}

/// Adds an error in four places, which four different checks find.
fn wrong_everywhere(config: &mut toml::Table, folder: &Path) {
    config.insert("limits".into(), table("max_header_bytes = '9GiB'"));
    listen_with(config, mismatched(folder));
    config["callers"][0]["operations"] = toml::Value::Array(vec!["orderz.*".into()]);
    let route = table(
        "name = 'shopper-orders.getOrder'\nmethod = 'GET'\npath = '/custom/x/{organizationId}'\nsecurity = 'shopper'\nscopes = 'a'",
    );
    config.insert("routes".into(), toml::Value::Array(vec![route]));
    config.insert("load".into(), table("low_priority = ['shopper-serch.*']"));
}

const EVERYWHERE: [&str; 5] =
    ["callers[0].operations[0]", "limits.max_header_bytes", "load.low_priority[0]", "routes[0]", "server.tls"];

#[test]
fn check_reports_config_policy_and_tls_errors_in_one_run() {
    let changed = Changed::new(wrong_everywhere);
    assert_eq!(changed.keys(), EVERYWHERE);
    let coloured = text(&changed.run(&["check", "--color", "always"]).stderr);
    assert_eq!(coloured.matches("\u{1b}[1m\u{1b}[31merror\u{1b}[0m: ").count(), EVERYWHERE.len(), "{coloured:?}");
}

#[test]
fn serve_reports_the_same_errors_as_check() {
    let changed = Changed::new(wrong_everywhere);
    let [checked, served] = ["check", "serve"].map(|command| changed.run(&[command]));
    assert_eq!((served.status.code(), text(&served.stderr)), (Some(1), text(&checked.stderr)));
    assert_eq!(text(&served.stderr).matches("error: ").count(), EVERYWHERE.len(), "{served:?}");
    assert!(served.stdout.is_empty());
}

#[test]
fn reload_reports_the_same_errors_as_check() {
    let free = |config: &mut toml::Table| {
        config["server"]["listen"] = toml::Value::Array(vec!["127.0.0.1:0".into()]);
        config["admin"]["listen"] = "127.0.0.1:0".into();
        config["log"]["format"] = "json".into();
    };
    let good = Changed::new(|config, _| free(config));
    let file = good.file();
    let serving = Serving::of(&file, []);
    serving.address("listening for operators");
    let wrong = Changed::new(|config, folder| {
        free(config);
        wrong_everywhere(config, folder);
        for key in ["certificate", "private_key"] {
            let path = folder.join(config["server"]["tls"][key].as_str().unwrap());
            config["server"]["tls"][key] = path.to_str().unwrap().into();
        }
    });
    fs::copy(wrong.file(), &file).unwrap();
    serving.signal("-HUP");
    let mut said = Vec::new();
    eventually("it refuses the configuration", || {
        said = serving.lines(|line| line["level"] == "ERROR");
        !said.is_empty()
    });
    let said = said[0]["message"].as_str().unwrap();
    for key in EVERYWHERE {
        assert!(said.contains(&format!("\nerror: {key}: ")), "{key} not in:\n{said}");
    }
}

#[test]
fn invalid_entry_does_not_hide_other_errors() {
    // The operations and certificate names of a caller are checked even if another of its settings is wrong.
    let changed = Changed::new(|config, _| {
        let caller = "name = 'Two Words'\ncertificate_subject = 'oms.example.com'\nmay = ['sistem']\norganizations = ['f_ecom_zzrf_001']\noperations = ['orderz.*', ' ', 'a b']";
        config["callers"].as_array_mut().unwrap().push(table(caller));
    });
    let keys = [
        "callers[1].certificate_subject",
        "callers[1].certificate_subject",
        "callers[1].may[0]",
        "callers[1].name",
        "callers[1].operations[0]",
        "callers[1].operations[1]",
        "callers[1].operations[2]",
    ];
    assert_eq!(changed.keys(), keys);

    // Its permissions are checked too.
    let changed = Changed::new(|config, _| {
        config["callers"][0]["name"] = "Two Words".into();
        config["tenants"][0].as_table_mut().unwrap().remove("on_behalf_client");
    });
    assert_eq!(changed.keys(), ["callers[0].name", "tenants[0].on_behalf_client"]);

    // The collision of two listeners is reported even if the certificates of one are wrong.
    let changed = Changed::new(|config, _| {
        listen_with(config, table("certificate = 'absent.pem'\nprivate_key = 'absent.key'"));
        config["admin"]["listen"] = config["server"]["listen"][0].clone();
    });
    assert_eq!(changed.keys(), ["admin.listen", "server.tls.certificate", "server.tls.private_key"]);

    // Each file of the listener is checked, even if others are wrong.
    let changed = Changed::new(|config, folder| {
        for (name, text) in [("empty.pem", ""), ("none.key", "no key"), ("ca.pem", "no authority")] {
            fs::write(folder.join(name), text).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        listen_with(config, table("certificate = 'empty.pem'\nprivate_key = 'none.key'\nclient_ca = 'ca.pem'"));
    });
    assert_eq!(changed.keys(), ["server.tls.certificate", "server.tls.client_ca", "server.tls.private_key"]);
    let changed = Changed::new(|config, folder| {
        let mut files = mismatched(folder);
        files.as_table_mut().unwrap().insert("client_ca".into(), "absent.pem".into());
        listen_with(config, files);
    });
    assert_eq!(changed.keys(), ["server.tls", "server.tls.client_ca"]);
}

#[test]
fn invalid_route_causes_no_error_for_its_callers() {
    let with = |route: &str| {
        let route = table(route);
        Changed::new(move |config, _| {
            config.insert("routes".into(), toml::Value::Array(vec![route]));
            config["callers"][0]["operations"] = toml::Value::Array(vec!["loyalty.*".into(), "loyalti.*".into()]);
        })
    };
    let rest = "method = 'GET'\nsecurity = 'system'\nscopes = 'a'\n";
    // The policy table refuses the first, the settings refuse the second.
    for path in ["/custom/{organizationId}/a%2Fb", "/checkout/orders/v1/organizations/{organizationId}/orders"] {
        let changed = with(&format!("name = 'loyalty.points'\npath = '{path}'\n{rest}"));
        let keys = changed.keys();
        assert!(
            keys.len() == 2 && keys[0] == "callers[0].operations[1]" && keys[1].starts_with("routes[0]"),
            "{keys:?}"
        );
    }
    // An entry without a name could be any entry.
    assert_eq!(with(&format!("path = '/custom/{{organizationId}}'\n{rest}")).keys(), ["routes[0].name"]);
}
