//! Loads configurations as an operator does: the files in `config/`, environment variables, secrets, and errors.
//!
//! All errors are reported in one run, each with its key, and never with a secret.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that meets the unexpected has failed")]

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use secrecy::ExposeSecret;
use shopper_gateway::config::{
    CheckReport, ConfigErrors, Loaded, LogFormat, PolicyMode, Settings, UnknownOperations, schema,
};
use tempfile::TempDir;

#[path = "config_files/storefronts.rs"]
mod storefronts;

const MINIMAL: &str = r#"
[[tenants]]
organization_id = "f_ecom_zzrf_001"
api = "https://kv7kzm78.api.commercecloud.salesforce.com"
sites = ["RefArch"]
"#;

/// A configuration with one SLAS client and the given `client_secret`.
fn with_secret(secret: &str) -> String {
    format!(
        "{MINIMAL}\n[[tenants.slas_clients]]\nclient_id = \"c1\"\nclient_secret = {secret}\nredirect_uri = \"app://back\"\n"
    )
}

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn load_in(folder: &Path, text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let path = folder.join("gateway.toml");
    fs::write(&path, text).unwrap();
    Settings::load_with(&path, environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())))
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    load_in(TempDir::new().unwrap().path(), text, environment)
}

/// The errors as `path: message`.
fn errors(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    load(text, environment).unwrap_err().errors.iter().map(ToString::to_string).collect()
}

/// The paths of the errors.
fn paths(text: &str) -> Vec<String> {
    load(text, &[]).unwrap_err().errors.into_iter().map(|diagnostic| diagnostic.path).collect()
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Creates the files that a configuration refers to in a temporary directory, and adjusts their paths.
fn with_files(text: &str) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let mut changed = text.to_owned();
    for root in ["/etc/shopper-gateway/", "/run/secrets/"] {
        for (start, _) in text.match_indices(root) {
            let file: String = text[start..].chars().take_while(|character| *character != '"').collect();
            write(&folder.path().join(&file[1..]), "content\n", 0o400);
        }
        changed = changed.replace(root, &format!("{}{root}", folder.path().display()));
    }
    (folder, changed)
}

/// `config/base.toml` with every example uncommented.
fn complete() -> (TempDir, String) {
    let text = fs::read_to_string(config("base.toml")).unwrap();
    let active = |line: &str| match line.strip_prefix('#') {
        Some(example) if !example.is_empty() && !example.starts_with(' ') => example.to_owned(),
        _ => line.to_owned(),
    };
    with_files(&text.lines().map(active).collect::<Vec<_>>().join("\n"))
}

#[test]
fn example_file_loads_with_expected_warnings() {
    let mut seen = 0;
    for entry in fs::read_dir(config("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let mut text = fs::read_to_string(&path).unwrap();
        if path.ends_with("base.toml") {
            text.push_str(MINIMAL);
        }
        let (_folder, text) = with_files(&text);
        let loaded = load(&text, &[]).unwrap_or_else(|errors| panic!("{}:\n{errors}", path.display()));
        // Three plain-text secrets, and `vouch` of the client that acts on behalf of shoppers.
        let expected = if path.ends_with("demo.toml") { 4 } else { 0 };
        assert_eq!(loaded.warnings.len(), expected, "{}: {:?}", path.display(), loaded.warnings);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn base_file_equals_defaults() {
    let base = fs::read_to_string(config("base.toml")).unwrap();
    let base = load(&format!("{base}\n{MINIMAL}"), &[]).unwrap().settings;
    let minimal = load(MINIMAL, &[]).unwrap().settings;
    assert_eq!(format!("{base:?}"), format!("{minimal:?}"));
}

#[test]
fn defaults_match_documentation() {
    let settings = load(MINIMAL, &[]).unwrap().settings;
    let seconds = Duration::from_secs;
    assert_eq!(settings.server.listen, ["127.0.0.1:8080".parse().unwrap()]);
    assert_eq!(settings.server.threads, std::thread::available_parallelism().unwrap().get());
    assert!(settings.server.tls.is_none());
    assert_eq!(settings.admin.listen, "127.0.0.1:9090".parse().unwrap());
    assert_eq!(settings.sessions.refresh_ahead, seconds(300));
    assert_eq!(settings.sessions.idle_timeout, seconds(1800));
    assert_eq!(settings.sessions.capacity, 100_000);
    let t = settings.timeouts;
    assert_eq!([t.upstream, t.upstream_admin, t.connect, t.exchange].map(|time| time.as_secs()), [10, 60, 3, 3]);
    assert_eq!([t.client_head, t.client_body, t.idle, t.drain].map(|time| time.as_secs()), [10, 30, 60, 25]);
    let l = settings.limits;
    assert_eq!([l.body, l.max_header_bytes, l.max_headers, l.max_uri_bytes], [1 << 20, 64 << 10, 100, 8 << 10]);
    assert_eq!((settings.log.level.as_str(), settings.log.format), ("info", LogFormat::Json));
    assert_eq!(settings.policy.mode, PolicyMode::Enforce);
    assert_eq!(settings.policy.unknown_operations, UnknownOperations::Deny);
    assert!(!settings.tenants[0].register_sessions && settings.tenants[0].account_manager.is_none());
}

#[test]
fn demo_file_matches_simulator() {
    let settings = Settings::load_with(&config("demo.toml"), []).unwrap().settings;
    let tenant = &settings.tenants[0];
    assert_eq!((tenant.organization.as_str(), tenant.tenant.as_str()), ("f_ecom_zzrf_001", "zzrf_001"));
    assert_eq!(tenant.slas_clients.iter().filter(|client| client.secret.is_some()).count(), 2);
    assert!(tenant.slas_clients[2].strict_client_auth);
    assert_eq!(tenant.on_behalf_client.as_ref(), Some(&tenant.slas_clients[1].id));
    let caller = &settings.callers[0];
    assert!(caller.may_system && caller.may_on_behalf && !caller.may_create_shoppers);
    assert_eq!(settings.log.format, LogFormat::Text);
    let shown = format!("{settings:?}");
    for secret in ["account-manager-secret", "private-client-secret", "strict-client-secret"] {
        assert!(!shown.contains(secret), "{secret} in Debug");
    }
}

/// All keys of the schema as `section.key`, without indices.
fn keys_of(node: &serde_json::Value, root: &serde_json::Value, path: &str, keys: &mut BTreeSet<String>) {
    let node = match node["$ref"].as_str() {
        Some(reference) => root.pointer(reference.trim_start_matches('#')).unwrap(),
        None => node,
    };
    if node["items"].is_object() {
        return keys_of(&node["items"], root, path, keys);
    }
    match node["properties"].as_object() {
        Some(properties) => {
            for (key, property) in properties {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys_of(property, root, &path, keys);
            }
        }
        None => {
            keys.insert(path.to_owned());
        }
    }
}

/// The key of a line of `base.toml`, which has a value or an example.
fn key_of(line: &str) -> Option<&str> {
    line.trim_start_matches(['#', ' ']).split_once(" = ").map(|(key, _)| key)
}

/// The keys of the schema that are missing in the text.
fn not_in(text: &str) -> Vec<String> {
    let schema = schema();
    let mut expected = BTreeSet::new();
    keys_of(&schema, &schema, "", &mut expected);
    assert!(expected.len() > 50 && expected.contains("tenants.slas_clients.redirect_uri"), "{expected:?}");

    let mut section = String::new();
    for line in text.lines() {
        let uncommented = line.trim_start_matches(['#', ' ']);
        if uncommented.starts_with('[') {
            section = uncommented.trim_matches(['[', ']']).to_owned();
        } else if let Some(key) = key_of(line) {
            expected.remove(&format!("{section}.{key}"));
        }
    }
    expected.into_iter().collect()
}

#[test]
fn base_file_lists_every_key() {
    let text = fs::read_to_string(config("base.toml")).unwrap();
    assert_eq!(not_in(&text), [""; 0]);

    // Self-test: without its line, each key is reported as missing.
    let lines: Vec<&str> = text.lines().collect();
    let mut missed = BTreeSet::new();
    for (number, line) in lines.iter().enumerate() {
        let others = [&lines[..number], &lines[number + 1..]].concat().join("\n");
        let found = not_in(&others);
        if let Some(key) = key_of(line)
            && let [path] = found.as_slice()
        {
            assert!(path.ends_with(&format!(".{key}")), "{path} missed without: {line}");
            missed.insert(path.clone());
        }
    }
    assert_eq!(missed.into_iter().collect::<Vec<_>>(), not_in(""));
}

#[test]
fn schema_describes_every_key() {
    let schema = schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let definitions = schema["$defs"].as_object().unwrap().values().chain([&schema]);
    for (key, property) in definitions.filter_map(|node| node["properties"].as_object()).flatten() {
        assert!(property["description"].is_string(), "{key} has no description");
    }
    let timeouts = &schema["$defs"]["Timeouts"]["properties"];
    assert_eq!((&timeouts["upstream"]["default"], &timeouts["drain"]["default"]), (&"10s".into(), &"25s".into()));
    assert!(!schema.to_string().contains("\"null\""), "TOML has no type null");
    assert!(!schema.to_string().contains(":null"), "TOML has no null");
}

#[test]
fn base_file_examples_are_valid() {
    let (_folder, text) = complete();
    let loaded = load(&text, &[("SLAS_SECRET", "s3cret")]).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.settings.routes.len(), 1);
    assert!(loaded.settings.server.tls.unwrap().client_ca.is_some());
}

/// The paths of all values that are no tables.
fn leaves(value: &toml::Value, path: &str, found: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(value, &path, found);
            }
        }
        toml::Value::Array(elements) if !elements.is_empty() => {
            for (position, element) in elements.iter().enumerate() {
                leaves(element, &format!("{path}[{position}]"), found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

fn at<'a>(value: &'a mut toml::Value, path: &str) -> &'a mut toml::Value {
    path.split(['.', '[', ']']).filter(|part| !part.is_empty()).fold(value, |value, part| match part.parse::<usize>() {
        Ok(position) => &mut value[position],
        Err(_) => &mut value[part],
    })
}

#[test]
fn value_of_wrong_type_is_one_error_at_its_key() {
    let (_folder, text) = complete();
    let complete = toml::Value::Table(text.parse().unwrap());
    let mut found = Vec::new();
    leaves(&complete, "", &mut found);
    assert!(found.len() > 50, "{found:?}");
    let wrong: [toml::Value; 3] = [
        toml::Value::Float(1.5),
        "1979-05-27".parse::<toml::value::Datetime>().unwrap().into(),
        toml::Value::Array(vec![toml::Value::Array(vec![])]),
    ];
    for path in &found {
        for value in &wrong {
            let mut changed = complete.clone();
            *at(&mut changed, path) = value.clone();
            let found = errors(&toml::to_string(&changed).unwrap(), &[("SLAS_SECRET", "s3cret")]);
            // An array is a valid type for a list, so the error is at its element.
            assert!(found.iter().any(|error| error.starts_with(path.as_str())), "{path} = {value}: {found:?}");
            assert!(found.iter().all(|error| !error.contains("cannot be read")), "{path} = {value}: {found:?}");
            assert_eq!(found.len(), 1, "{path} = {value}: {found:?}");
        }
    }
}

#[test]
fn all_errors_are_reported_in_one_run() {
    let text = r#"
        thraeds = 3
        [server]
        listen = ["localhost:8080"]
        thread = 4
        [admin]
        listen = 9090
        [[tenants]]
        organization_id = "f_ecom_zzrf_001"
        api = "kv7kzm78.api.commercecloud.salesforce.com"
        sites = ["Ref Arch"]
        [tenants.account_manager]
        url = "https://user:PLANTED-1@account.demandware.com"
        client_id = "a"
        client_secret = { file = "absent" }
        [[tenants.slas_clients]]
        client_id = "public"
        redirect_uri = "app://back"
        strict_client_auth = true
        [[tenants.slas_clients]]
        client_id = "private"
        client_secret = "PLANTED-2"
        redirect_uri = "/callback"
        [[tenants]]
        organization_id = "f_ecom_zzrf_001"
        api = "https://kv7kzm78.api.commercecloud.salesforce.com"
        sites = ["RefArch"]
        on_behalf_client = "nobody"
        [[tenants.slas_clients]]
        client_id = "x"
        client_secret = ["PLANTED-3"]
        redirect_uri = "app://back#fragment"
        [[callers]]
        name = "Experience Cloud"
        may = ["sytem"]
        organizations = ["f_ecom_zzrf_002"]
        operations = ["orders.*"]
        [sessions]
        refresh_ahead = "30m"
        idle_timeout = "0s"
        [timeouts]
        upstream = "10"
        [limits]
        body = "1 MB"
        max_headers = 0
        [log]
        level = "infos"
        format = "jsno"
        [policy]
        unknown_operations = true
        [[routes]]
        name = "loyalty"
        method = "TRACE"
        path = "/custom/loyalty"
        security = "shopper"
        scopes = "c_loyalty,c\"x"
    "#;
    let mut found = paths(text);
    let mut expected = [
        "thraeds",
        "server.listen[0]",
        "server.thread",
        "admin.listen",
        "tenants[0].api",
        "tenants[0].sites[0]",
        "tenants[0].account_manager.url",
        "tenants[0].account_manager.client_secret",
        "tenants[0].slas_clients[0].strict_client_auth",
        "tenants[0].slas_clients[1].redirect_uri",
        "tenants[1].organization_id",
        "tenants[1].on_behalf_client",
        "tenants[1].slas_clients[0].client_secret",
        "tenants[1].slas_clients[0].redirect_uri",
        "callers[0].name",
        "callers[0].account_manager_client_id",
        "callers[0].may[0]",
        "callers[0].organizations",
        "sessions.refresh_ahead",
        "sessions.idle_timeout",
        "timeouts.upstream",
        "limits.body",
        "limits.max_headers",
        "log.level",
        "log.format",
        "policy.unknown_operations",
        "routes[0].name",
        "routes[0].method",
        "routes[0].path",
        "routes[0].scopes[1]",
    ];
    found.sort();
    expected.sort_unstable();
    assert_eq!(found, expected);

    let all = load(text, &[]).unwrap_err();
    let shown = format!("{all}\n{all:?}");
    assert!(!shown.contains("PLANTED"), "{shown}");
    for hint in [
        "error: tenants[0].api: not a URL; expected e.g. https://kv7kzm78.api.commercecloud.salesforce.com\n",
        "error: server.thread: unknown key; did you mean `threads`?\n",
        "error: admin.listen: expected a string, e.g. \"127.0.0.1:9090\", found an integer\n",
        "error: log.format: expected \"json\" or \"text\"; did you mean \"json\"?\n",
        "did you mean system?",
        "f_ecom_zzrf_002 is not one of [[tenants]]; did you mean f_ecom_zzrf_001?",
        "tenants[0].account_manager.client_secret: file ",
        "warning: tenants[0].slas_clients[1].client_secret: the configuration file contains the secret",
    ] {
        assert!(shown.contains(hint), "{hint} not in:\n{shown}");
    }
}

#[test]
fn missing_key_is_reported_with_example() {
    assert_eq!(paths(""), ["tenants"]);
    let found =
        errors("[[tenants]]\napi = 'https://x.example'\n[[tenants.slas_clients]]\n[server.tls]\n[[callers]]", &[]);
    let found: Vec<_> = found.iter().map(String::as_str).collect();
    assert!(found.contains(&"tenants[0].organization_id: missing; expected e.g. \"f_ecom_zzrf_001\""), "{found:?}");
    assert!(found.contains(&"tenants[0].sites: missing; expected e.g. [\"RefArch\", \"RefArchGlobal\"]"), "{found:?}");
    // 2 keys of the tenant, 2 of the client, 2 of TLS, 4 of the caller, and its identity.
    assert_eq!(found.len(), 11, "{found:?}");
}

#[test]
fn misspelt_key_is_not_reported_as_missing() {
    let text = MINIMAL.replace("organization_id", "organisation_id");
    assert_eq!(errors(&text, &[]), ["tenants[0].organisation_id: unknown key; did you mean `organization_id`?"]);
}

#[test]
fn renamed_key_is_reported_with_new_name() {
    let share = "; the value is now a share from 0.0 to 1.0: \"1 in 20\" is 0.05";
    for (old, old_value, new, new_value, conversion) in [
        ("sessions.proactive_per_minute", "60", "sessions.background_refreshes_per_minute", "60", ""),
        ("log.one_success_in", "20", "log.success_sample_rate", "0.05", share),
        ("traces.one_in", "20", "traces.sample_ratio", "0.05", share),
        ("traces.asked_per_second", "20", "traces.parent_sampled_per_second", "20", ""),
        ("logins.waiting", "100", "logins.max_concurrent", "100", ""),
        ("load.queue", "'1s'", "limits.queue_timeout", "'1s'", ""),
        ("load.concurrency", "100", "limits.max_concurrent_requests", "100", ""),
        ("limits.body_rate", "'2KiB'", "limits.min_body_rate", "'2KiB'", ""),
        ("limits.fields", "50", "limits.max_headers", "50", ""),
        ("limits.head", "'32KiB'", "limits.max_header_bytes", "'32KiB'", ""),
        ("limits.target", "'4KiB'", "limits.max_uri_bytes", "'4KiB'", ""),
        ("keys.folder", "'keys'", "keys.jwks_cache_dir", "'keys'", ""),
    ] {
        let text = |path: &str, value: &str| {
            let (section, key) = path.split_once('.').unwrap();
            format!("{MINIMAL}[{section}]\n{key} = {value}\n")
        };
        let in_environment = |path: &str, value: &str| {
            let variable = variable(path);
            load(MINIMAL, &[(variable.as_str(), value.trim_matches('\''))])
        };
        assert_eq!(errors(&text(old, old_value), &[]), [format!("{old}: renamed to {new}{conversion}")]);
        let found = in_environment(old, old_value).unwrap_err().errors;
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].to_string(), format!("{}: renamed to {}{conversion}", variable(old), variable(new)));
        let by_file = load(&text(new, new_value), &[]).unwrap_or_else(|errors| panic!("{errors}")).settings;
        let by_environment = in_environment(new, new_value).unwrap_or_else(|errors| panic!("{errors}")).settings;
        if !new.starts_with("keys.") {
            assert_eq!(format!("{by_file:?}"), format!("{by_environment:?}"), "{new}");
        }
    }
}

#[test]
fn sample_rate_accepts_numbers_from_zero_to_one() {
    let rate = |value: &str| load(&format!("{MINIMAL}[log]\nsuccess_sample_rate = {value}"), &[]);
    for (value, expected) in [("0", 0.0), ("1", 1.0), ("0.0", 0.0), ("0.05", 0.05), ("1e-6", 1e-6)] {
        assert_eq!(rate(value).unwrap().settings.log.success_sample_rate.to_bits(), f64::to_bits(expected), "{value}");
    }
    for value in ["-0.1", "1.1", "2", "nan", "inf"] {
        let shown = rate(value).unwrap_err().to_string();
        assert_eq!(shown, "error: log.success_sample_rate: must be between 0.0 and 1.0", "{value}");
    }
    let variable = [("SHOPPER_GATEWAY__TRACES__SAMPLE_RATIO", "0.25")];
    let ratio = load(MINIMAL, &variable).unwrap().settings.traces.sample_ratio;
    assert_eq!(ratio.to_bits(), 0.25_f64.to_bits());
    let text = errors(&format!("{MINIMAL}[log]\nsuccess_sample_rate = '0.05'"), &[]);
    assert_eq!(text, ["log.success_sample_rate: expected a number, e.g. 0.01, found a string"]);
}

#[test]
fn unreadable_or_malformed_file_is_reported_without_content() {
    let missing =
        Settings::load(Path::new("/nowhere/gateway.toml"), |_| CheckReport::default()).unwrap_err().to_string();
    assert!(
        missing.starts_with("error: /nowhere/gateway.toml: no such file") && missing.contains("-c FILE"),
        "{missing}"
    );
    for broken in
        ["client_secret = PLANTED", "client_secret = \"PLANTED", "client_secret = \"PLANTED\\q\"", "x = 'PLANTED' y"]
    {
        let shown = errors(&format!("[server]\n  {broken}\n"), &[]).join("\n");
        assert!(
            shown.contains("gateway.toml:2:") && shown.contains("invalid TOML") && !shown.contains("PLANTED"),
            "{shown}"
        );
    }
    let odd = load("\"a\\nerror: b\" = 1", &[]).unwrap_err().to_string();
    assert!(odd.starts_with("error: a\\nerror: b: unknown key"), "{odd}");
    let twice = errors("[log]\nlevel = 'info'\nlevel = 'PLANTED'", &[]).join("\n");
    assert!(twice.contains("gateway.toml:3:1: invalid TOML: duplicate key") && !twice.contains("PLANTED"), "{twice}");
}

#[test]
fn environment_overrides_file() {
    let text = format!("[server]\nthreads = 2\nlisten = ['127.0.0.1:1']\n{}", with_secret("'from-file'"));
    let loaded = load(
        &text,
        &[
            ("SHOPPER_GATEWAY__SERVER__THREADS", "4"),
            ("SHOPPER_GATEWAY__SERVER__LISTEN", "127.0.0.1:8080, 127.0.0.1:8081"),
            ("SHOPPER_GATEWAY__LIMITS__BODY", "2097152"),
            ("SHOPPER_GATEWAY__LIMITS__MAX_HEADER_BYTES", "32KiB"),
            ("SHOPPER_GATEWAY__TENANTS__0__REGISTER_SESSIONS", "true"),
            ("SHOPPER_GATEWAY__TENANTS__0__SITES__1", "RefArchGlobal"),
            ("SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__0__CLIENT_SECRET", "00123"),
            ("SHOPPER_GATEWAY__TENANTS__1__ORGANIZATION_ID", "f_ecom_zzrf_002"),
            ("SHOPPER_GATEWAY__TENANTS__1__API", "https://two.example.com"),
            ("SHOPPER_GATEWAY__TENANTS__1__SITES", "One,Two"),
            ("SHOPPER_GATEWAY__TENANTS__1__SLAS_CLIENTS__0__CLIENT_ID", "c2"),
            ("SHOPPER_GATEWAY__TENANTS__1__SLAS_CLIENTS__0__REDIRECT_URI", "app://two"),
            ("SHOPPER_GATEWAY__TENANTS__1__SLAS_CLIENTS__0__CLIENT_SECRET__ENV", "TWO"),
            ("TWO", "1e400"),
            ("SHOPPER_GATEWAY_SERVICE_PORT", "Kubernetes sets such variables"),
        ],
    )
    .unwrap_or_else(|errors| panic!("{errors}"));
    let settings = loaded.settings;
    assert_eq!(settings.server.threads, 4);
    assert_eq!(settings.server.listen.len(), 2);
    assert_eq!((settings.limits.body, settings.limits.max_header_bytes), (2 << 20, 32 << 10));
    assert!(settings.tenants[0].register_sessions);
    let secret =
        |tenant: usize| settings.tenants[tenant].slas_clients[0].secret.as_ref().unwrap().expose_secret().to_owned();
    assert_eq!((secret(0), secret(1)), ("00123".to_owned(), "1e400".to_owned()));
    assert_eq!(settings.tenants[0].sites.len(), 2);
    assert_eq!(settings.tenants[1].sites.len(), 2);
    assert_eq!(settings.tenants[1].on_behalf_client, Some("c2".parse().unwrap()));
    assert_eq!(loaded.warnings, [], "a secret from the environment causes no warning");
}

#[test]
fn array_elements_from_environment_keep_order_beyond_index_nine() {
    let variables: Vec<(String, String)> = (0..12)
        .map(|number| (format!("SHOPPER_GATEWAY__TENANTS__0__SITES__{number}"), format!("Site{number}")))
        .collect();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gateway.toml");
    fs::write(&path, MINIMAL.replace("sites = [\"RefArch\"]", "")).unwrap();
    let settings = Settings::load_with(&path, variables).unwrap().settings;
    assert_eq!(settings.tenants[0].sites[11].as_str(), "Site11");
}

/// The variable of a key.
fn variable(path: &str) -> String {
    let segments: Vec<_> = path.split(['.', '[', ']']).filter(|segment| !segment.is_empty()).collect();
    format!("SHOPPER_GATEWAY__{}", segments.join("__").to_uppercase())
}

#[test]
fn every_key_can_be_set_by_environment() {
    let (_folder, text) = complete();
    let mut file = toml::Value::Table(text.parse().unwrap());
    let mut found = Vec::new();
    leaves(&file, "", &mut found);
    let mut variables = vec![("SLAS_SECRET".to_owned(), "s3cret".to_owned())];
    for path in &found {
        let value = at(&mut file, path);
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        variables.push((variable(path), text));
    }
    let folder = TempDir::new().unwrap();
    let load = |text: &str| {
        fs::write(folder.path().join("gateway.toml"), text).unwrap();
        Settings::load_with(&folder.path().join("gateway.toml"), variables.clone()).map(|loaded| loaded.settings)
    };
    let from_file = load_in(folder.path(), &text, &[("SLAS_SECRET", "s3cret")]).unwrap().settings;
    // With an empty file, with the same file, and with different values in the file.
    for text in ["", &text, &text.replace("RefArch", "Other").replace("5m", "6m").replace("1MiB", "2MiB")] {
        let from_environment = load(text).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(format!("{from_environment:?}"), format!("{from_file:?}"));
    }
}

#[test]
fn trusted_proxies_and_default_limits_are_parsed() {
    let text = |proxies: &str| format!("[server]\ntrusted_proxies = {proxies}\n{MINIMAL}");
    let settings = load(&text(r#"["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"]"#), &[]).unwrap().settings;
    let shown: Vec<_> = settings.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]);
    assert_eq!(paths(&text(r#"["10.0.0.0/33", "proxy.internal"]"#)).len(), 2);
    let mapped = load(&text(r#"["::ffff:10.0.0.0/104", "::ffff:192.0.2.7"]"#), &[]).unwrap().settings;
    let shown: Vec<_> = mapped.server.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.0.0/8", "192.0.2.7/32"]);
    for everybody in [r#"["0.0.0.0/0"]"#, r#"["::/0"]"#, r#"["0.0.0.0/1", "128.0.0.0/1"]"#] {
        let warnings = load(&text(everybody), &[]).unwrap().warnings;
        assert!(warnings.iter().any(|warning| warning.path == "server.trusted_proxies"), "{everybody}");
    }
    assert_eq!(settings.tenants[0].slas_requests_per_minute, 500);
    let production = load(&MINIMAL.replace("zzrf_001", "zzrf_prd"), &[]).unwrap().settings;
    assert_eq!(production.tenants[0].slas_requests_per_minute, 24_000);
    assert_eq!((settings.logins.max_concurrent, settings.limits.max_concurrent_requests), (256, 2000));
}

#[test]
fn network_limits_replace_general_limits_by_longest_prefix() {
    let text = format!(
        "{MINIMAL}[limits]\nslas_calls_per_address = 40\n\
         [[limits.networks]]\nnetwork = '10.0.0.0/8'\nslas_calls_per_address = 900\nguests_per_address = 0\n\
         [[limits.networks]]\nnetwork = '10.1.2.3/24'\nheld_bodies_per_address = 0\n\
         [[limits.networks]]\nnetwork = '2001:db8::/48'\nconnections_per_address = 7\n"
    );
    let limits = load(&text, &[]).unwrap().settings.limits;
    let of = |address: &str| limits.for_address(address.parse().unwrap());
    let calls = |address: &str, tenant| of(address).slas_calls.map(|calls| calls.for_tenant(tenant));
    assert_eq!(
        (calls("192.0.2.1", 500), calls("192.0.2.1", 160), calls("192.0.2.1", 1)),
        (Some(40), Some(20), Some(1))
    );
    assert_eq!((calls("10.9.9.9", 160), of("10.9.9.9").guests), (Some(900), None), "not restricted by the tenant");
    assert_eq!(
        (of("10.1.2.9").held_bodies, calls("10.1.2.9", 160)),
        (None, Some(20)),
        "absent keys keep the general limit"
    );
    assert_eq!(of("2001:db8:0:7::").connections, Some(7));
    assert_eq!((of("2001:db9::").connections, of("192.0.2.1").guests), (Some(1000), Some(300)), "defaults");

    let wrong = |networks: &str| paths(&format!("{MINIMAL}{networks}"));
    let network = |rest: &str| format!("[[limits.networks]]\n{rest}\n");
    assert_eq!(wrong(&network("network = 'office'\nguests_per_address = 1")), ["limits.networks[0].network"]);
    assert_eq!(wrong(&network("guests_per_address = 1")), ["limits.networks[0].network"]);
    assert_eq!(wrong(&network("network = '10.0.0.0/8'")), ["limits.networks[0].network"], "no limit");
    assert_eq!(wrong(&network("network = '2001:db8::/65'\nguests_per_address = 1")), ["limits.networks[0].network"]);
    let large = network("network = '10.0.0.0/8'\nrequests_per_address = 900000\nheld_bodies_per_address = '0'");
    let loaded = load(&format!("{MINIMAL}{large}"), &[]).unwrap();
    assert_eq!(loaded.settings.limits.for_address("10.0.0.1".parse().unwrap()).held_bodies, None, "0 as a string");
    let warned: Vec<_> = loaded.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert!(warned.contains(&"limits.networks[0].requests_per_address"), "{warned:?}");
    let twice = network("network = '10.0.0.0/8'\nguests_per_address = 1").repeat(2);
    assert_eq!(wrong(&twice), ["limits.networks[1].network"]);
    let sizes = network("network = '10.0.0.0/8'\nheld_bodies_per_address = 'large'");
    assert_eq!(wrong(&sizes), ["limits.networks[0].held_bodies_per_address"]);
    assert_eq!(wrong("[limits]\nconnections = 5\nconnections_per_address = 6"), ["limits.connections_per_address"]);
    assert!(load(&format!("{MINIMAL}[limits]\nconnections = 5"), &[]).is_ok(), "the default may be larger");
}

#[test]
fn storefront_server_has_larger_limits() {
    let text = format!(
        "{MINIMAL}[logins]\nfailed_per_address_and_login = 4\n[limits]\nincomplete_requests = 100\nheld_bodies = '1MiB'\n\
         [[limits.networks]]\nnetwork = '10.1.0.0/16'\nstorefront_server = true\nclient_address_header = 'X-Client-IP'\n\
         [[limits.networks]]\nnetwork = '10.2.0.0/16'\nstorefront_server = true\nfailed_per_address = 0\n\
         failed_per_address_and_login = 7\nguests_per_address = 9\nslas_calls_per_address = 70\n"
    );
    let limits = load(&text, &[]).unwrap().settings.limits;
    let of = |address: &str| *limits.for_address(address.parse().unwrap());
    let calls = |address: &str| of(address).slas_calls.map(|calls| calls.for_tenant(500));
    assert_eq!((of("192.0.2.1").failed_logins, of("192.0.2.1").failed_logins_per_id), (Some(60), Some(4)));
    let server = of("10.1.2.3");
    assert_eq!((server.connections, server.requests, server.guests), (None, None, None));
    assert_eq!((server.incomplete_requests, server.held_bodies), (Some(50), Some(512 * 1024)));
    assert_eq!((server.failed_logins, server.failed_logins_per_id), (Some(3000), None));
    assert_eq!((calls("10.1.2.3"), calls("192.0.2.1")), (Some(250), Some(62)), "half instead of an eighth");
    let own = of("10.2.0.1");
    assert_eq!((own.failed_logins, own.failed_logins_per_id, own.guests), (None, Some(7), Some(9)));
    assert_eq!(calls("10.2.0.1"), Some(70));
    let headers: Vec<_> = limits.networks.iter().map(|own| own.client_address_header.clone()).collect();
    assert_eq!(headers, [Some(http::HeaderName::from_static("x-client-ip")), None]);

    for (header, hint) in [
        ("X Client", "not the name of a header"),
        ("x-forwarded-for", "server.trusted_proxies"),
        ("Forwarded", "another meaning"),
        ("Host", "another meaning"),
    ] {
        let text =
            format!("{MINIMAL}[[limits.networks]]\nnetwork = '10.0.0.0/8'\nclient_address_header = '{header}'\n");
        let shown = errors(&text, &[]).join("\n");
        assert!(shown.starts_with("limits.networks[0].client_address_header: ") && shown.contains(hint), "{shown}");
    }
}

#[test]
fn key_set_by_two_variables_is_rejected() {
    let text = with_secret("{ env = 'SLAS' }");
    let whole = "SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__0__CLIENT_SECRET";
    let part = "SHOPPER_GATEWAY__TENANTS__0__SLAS_CLIENTS__0__CLIENT_SECRET__FILE";
    let other = "SHOPPER_GATEWAY__tenants__00__SLAS_CLIENTS__0__CLIENT_SECRET";
    let shown = format!("{part}: already set by {whole}; remove one of the two");
    assert_eq!(errors(&text, &[(part, "PLANTED"), (whole, "PLANTED")]), [shown]);
    let shown = format!("{other}: already set by {whole}; remove one of the two");
    assert_eq!(errors(&text, &[(other, "PLANTED"), (whole, "PLANTED")]), [shown]);
}

#[test]
fn quoted_section_name_is_not_parsed_as_path() {
    for odd in ["'server.threads' = 4", "'tenants[999999999999]' = 4", "'tenants[0]'.api = 4", "'log.level' = {}"] {
        let found = errors(&format!("{odd}\n{MINIMAL}"), &[("SHOPPER_GATEWAY__SERVER__THREADS", "3")]);
        let key = odd.split('\'').nth(1).unwrap();
        assert!(found.len() == 1 && found[0].starts_with(&format!("{key}: unknown key; ")), "{found:?}");
    }
}

#[test]
fn invalid_variables_are_reported_by_name() {
    let found = errors(
        MINIMAL,
        &[
            ("SHOPPER_GATEWAY__SERVER__THRAEDS", "PLANTED"),
            ("SHOPPER_GATEWAY__SERVR__THREADS", "PLANTED"),
            ("SHOPPER_GATEWAY__COLOUR", "PLANTED"),
            ("SHOPPER_GATEWAY__", "PLANTED"),
            ("SHOPPER_GATEWAY__LOG__LEVEL__X", "PLANTED"),
            ("SHOPPER_GATEWAY__SERVER__THREADS", "PLANTED"),
            ("SHOPPER_GATEWAY__SERVER__LISTEN", "127.0.0.1:1,PLANTED"),
            ("SHOPPER_GATEWAY__TENANTS__2__API", "PLANTED"),
            ("SHOPPER_GATEWAY__CALLERS", "PLANTED"),
        ],
    );
    let shown = found.join("\n");
    assert_eq!(found.len(), 9, "{shown}");
    assert!(!shown.contains("PLANTED"), "{shown}");
    for expected in [
        "SHOPPER_GATEWAY__SERVER__THRAEDS: unknown key; did you mean SHOPPER_GATEWAY__SERVER__THREADS?",
        "SHOPPER_GATEWAY__SERVR__THREADS: unknown key; did you mean SHOPPER_GATEWAY__SERVER__THREADS?",
        "SHOPPER_GATEWAY__COLOUR: unknown key; the name of a variable is",
        "SHOPPER_GATEWAY__LOG__LEVEL__X: unknown key",
        "server.threads: expected an integer, e.g. 4, found a string (set by SHOPPER_GATEWAY__SERVER__THREADS)",
        "(set by SHOPPER_GATEWAY__SERVER__LISTEN)",
        "SHOPPER_GATEWAY__TENANTS__2__API: leaves a gap in the array; the next index is 1",
        "callers: expected an array, found a string (set by SHOPPER_GATEWAY__CALLERS)",
    ] {
        assert!(shown.contains(expected), "{expected} not in:\n{shown}");
    }
}

#[test]
fn wrong_type_in_file_is_reported_despite_environment() {
    let found = errors("tenants = 3", &[("SHOPPER_GATEWAY__TENANTS__0__API", "https://x.example")]);
    assert_eq!(found, ["tenants: expected an array, found an integer"]);
    let found = errors(&format!("server = 'x'\n{MINIMAL}"), &[("SHOPPER_GATEWAY__SERVER__THREADS", "4")]);
    assert_eq!(found, ["server: expected a table, found a string"]);
    let found = errors(&with_secret("1979-05-27"), &[("SHOPPER_GATEWAY__SERVER__THREADS", "4")]);
    assert!(found.len() == 1 && found[0].ends_with("found a date or time"), "{found:?}");
}

#[test]
fn secrets_are_read_from_files_and_variables() {
    let folder = TempDir::new().unwrap();
    let read = |content: &str, mode: u32| {
        let file = folder.path().join("secret");
        let _ = fs::remove_file(&file);
        write(&file, content, mode);
        let loaded = load_in(folder.path(), &with_secret("{ file = 'secret' }"), &[]);
        let secret = |loaded: Loaded| loaded.settings.tenants[0].slas_clients[0].secret.clone().unwrap();
        loaded.map(|loaded| secret(loaded).expose_secret().to_owned()).map_err(|errors| errors.to_string())
    };
    for (content, secret) in [
        ("s3cret", "s3cret"),
        ("s3cret\n", "s3cret"),
        ("s3cret\r\n", "s3cret"),
        ("s3cret\n\n", "s3cret"),
        ("\u{feff}s3cret\r\n", "s3cret"),
        (" 007 ", " 007 "),
    ] {
        assert_eq!(read(content, 0o400).unwrap(), secret);
    }
    for mode in [0o400, 0o440, 0o600, 0o640] {
        assert!(read("PLANTED", mode).is_ok(), "{mode:o}");
    }
    for mode in [0o444, 0o604, 0o644, 0o660, 0o601, 0o602, 0o777] {
        let shown = read("PLANTED", mode).unwrap_err();
        assert!(shown.contains(&format!("mode {mode:04o}")) && shown.contains("chmod 0400"), "{shown}");
        assert!(
            shown.starts_with("error: tenants[0].slas_clients[0].client_secret: ") && shown.contains("/secret"),
            "{shown}"
        );
        assert!(!shown.contains("PLANTED"), "{shown}");
    }
    for empty in ["", "\n"] {
        assert!(read(empty, 0o400).unwrap_err().contains("/secret is empty"));
    }
    assert!(read(&"x".repeat(70_000), 0o400).unwrap_err().contains("too large"));

    let variable = with_secret("{ env = 'SLAS' }");
    assert!(load(&variable, &[("SLAS", "00123")]).unwrap().warnings.is_empty());
    assert!(errors(&variable, &[])[0].contains("environment variable SLAS is not set"));
    let by_variable = load(&variable, &[("SLAS", "\u{feff}s3cret\r\n")]).unwrap().settings;
    assert_eq!(by_variable.tenants[0].slas_clients[0].secret.as_ref().unwrap().expose_secret(), "s3cret");
    // An operator may paste the secret instead of the name of its file or variable.
    for pasted in ["{ file = 'PLANTED-s3cret' }", "{ env = 'PLANTED-s3cret' }"] {
        let shown = errors(&with_secret(pasted), &[]);
        assert!(shown[0].contains("PL… (14 characters)") && !shown[0].contains("PLANTED"), "{shown:?}");
    }
    let blanks = load(&variable, &[("SLAS", "s3cret ")]).unwrap();
    assert!(blanks.warnings[0].to_string().contains("begins or ends with whitespace"));
    assert!(errors(&variable, &[("SLAS", "")])[0].ends_with("environment variable SLAS is empty"));
    for neither in ["{}", "{ file = 'x', env = 'SLAS' }"] {
        assert!(errors(&with_secret(neither), &[])[0].ends_with("expected exactly one of file and env"));
    }
    let misspelt = "tenants[0].slas_clients[0].client_secret.fil: unknown key; did you mean `file`?";
    assert_eq!(errors(&with_secret("{ fil = 'x' }"), &[]), [misspelt]);
    assert!(errors(&with_secret("''"), &[])[0].ends_with("client_secret: the value is empty"));
    assert!(errors(&with_secret("{ file = '.' }"), &[])[0].ends_with("is a directory"));
}

/// An operator may paste a secret instead of the path of its file.
#[test]
fn missing_file_name_is_redacted_if_it_may_be_a_secret() {
    let secrets = [
        "PLANTED/s3cret+hunter2=",
        "/PLANTED/s3cretAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "PLANTED-s3cret",
        "-----BEGIN PRIVATE KEY-----\nPLANTED/MIGHAgEAMBMGByqGSM49\n-----END PRIVATE KEY-----\n",
        &"PLANTED".repeat(100),
    ];
    for secret in secrets {
        let quoted = format!("\"\"\"{secret}\"\"\"");
        for text in [
            with_secret(&format!("{{ file = {quoted} }}")),
            format!("[server.tls]\ncertificate = 'a.pem'\nprivate_key = {quoted}\n{MINIMAL}"),
            format!("{MINIMAL}\n[store]\nkind = 'redis'\nurl = 'redis://a'\nencryption_key = {{ file = {quoted} }}\n"),
            format!("{MINIMAL}\n[store]\nkind = 'redis'\nurl = {{ file = {quoted} }}\nencryption_key = 'x'\n"),
        ] {
            let shown = errors(&text, &[]).join("\n");
            assert!(shown.contains("characters)") && !shown.contains("PLANTED"), "{shown}");
        }
    }
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("slas");
    let shown = errors(&with_secret(&format!("{{ file = '{}' }}", missing.display())), &[]).join("\n");
    assert!(shown.contains(&format!("file {} does not exist", missing.display())), "its directory exists: {shown}");
    for (key, value) in
        [("certificate", "server.pem"), ("private_key", "server.key"), ("certificate", "/absent/tls.pem")]
    {
        let shown = errors(&format!("[server.tls]\n{key} = '{value}'\n{MINIMAL}"), &[]).join("\n");
        assert!(shown.contains(value), "{shown}");
    }
}

#[test]
fn private_key_readable_by_others_is_rejected() {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("certificate"), "content", 0o644);
    write(&folder.path().join("key"), "content", 0o644);
    let text =
        format!("[server.tls]\ncertificate = 'certificate'\nprivate_key = 'key'\nclient_ca = 'absent'\n{MINIMAL}");
    let shown = load_in(folder.path(), &text, &[]).unwrap_err().to_string();
    assert!(shown.contains("error: server.tls.private_key: ") && shown.contains("mode 0644"), "{shown}");
    assert!(shown.contains("error: server.tls.client_ca: ") && !shown.contains("server.tls.certificate"), "{shown}");
}

#[test]
fn vouch_default_is_false_for_on_behalf_client() {
    let client = |id: &str, more: &str| {
        format!("[[tenants.slas_clients]]\nclient_id = '{id}'\n{more}\nredirect_uri = 'app://x'\n")
    };
    let private = |id: &str, more: &str| client(id, &format!("client_secret = {{ env = 'S' }}\n{more}"));
    let caller = "[tenants.account_manager]\nurl = 'https://account.demandware.com'\nclient_id = 'm'\nclient_secret = { env = 'S' }\n[[callers]]\nname = 'c'\naccount_manager_client_id = 'a'\nmay = 'on_behalf'\norganizations = 'f_ecom_zzrf_001'\noperations = '*'\n";
    let loaded = |text: String| {
        let loaded =
            load(&format!("{MINIMAL}\n{text}"), &[("S", "secret")]).unwrap_or_else(|errors| panic!("{errors}"));
        let vouch: Vec<bool> = loaded.settings.tenants[0].slas_clients.iter().map(|client| client.vouch).collect();
        let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.to_string()).collect();
        (vouch, warnings)
    };
    let named = "on_behalf_client = 'b'\n";
    // A separate client acts on behalf of shoppers: no warning.
    assert_eq!(loaded(format!("{named}{}{}", private("a", ""), private("b", ""))), (vec![true, false], vec![]));
    assert_eq!(loaded(format!("{}{}", private("a", ""), private("b", ""))), (vec![true, true], vec![]));
    assert_eq!(loaded(private("b", "")), (vec![true], vec![]), "no client acts on behalf of shoppers");
    // The only private client: a storefront may depend on it.
    for text in [format!("{named}{}", private("b", "")), private("b", "") + caller] {
        let (vouch, warnings) = loaded(text);
        assert_eq!((vouch, warnings.len()), (vec![true], 1));
        assert!(warnings[0].starts_with("tenants[0].slas_clients[0].vouch: missing: the only private client"));
    }
    assert_eq!(loaded(private("b", "vouch = false") + caller), (vec![false], vec![]));
    let (vouch, warnings) = loaded(private("b", "vouch = true") + caller);
    assert_eq!((vouch, warnings.len()), (vec![true], 1));
    assert!(warnings[0].starts_with("tenants[0].slas_clients[0].vouch: true for the client that acts"), "{warnings:?}");
    // The value of other clients is kept.
    let (vouch, warnings) = loaded(format!("{named}{}{}", private("a", "vouch = false"), private("b", "")));
    assert_eq!((vouch, warnings), (vec![false, false], vec![]));
    let public = format!("{MINIMAL}\n{}", client("p", "vouch = true"));
    assert_eq!(paths(&public), ["tenants[0].slas_clients[0].vouch"]);
}

#[test]
fn conflicts_between_keys_are_rejected() {
    let client = |id: &str, secret: &str| {
        format!("[[tenants.slas_clients]]\nclient_id = '{id}'\n{secret}\nredirect_uri = 'app://x'\n")
    };
    let private = |id: &str| client(id, "client_secret = 's'");
    let entry = "[[callers]]\nname = 'c'\naccount_manager_client_id = 'a'\nmay = 'on_behalf'\norganizations = 'f_ecom_zzrf_001'\noperations = '*'\n";
    let caller = format!(
        "[tenants.account_manager]\nurl = 'https://account.demandware.com'\nclient_id = 'm'\nclient_secret = 's'\n{entry}"
    );
    let caller = caller.as_str();
    let of = |text: String| paths(&format!("{MINIMAL}\n{text}"));

    assert_eq!(of(private("a") + &private("b") + caller), ["tenants[0].on_behalf_client"]);
    assert!(
        load(&format!("{MINIMAL}{}{}", private("a"), private("b")), &[]).is_ok(),
        "no caller acts on behalf of shoppers"
    );
    let filled = load(&format!("{MINIMAL}{}{}{caller}", client("p", ""), private("b")), &[]).unwrap().settings;
    assert_eq!(filled.tenants[0].on_behalf_client, Some("b".parse().unwrap()));
    let named =
        |id: &str| format!("{MINIMAL}on_behalf_client = '{id}'\n{}{}{}", client("p", ""), private("a"), private("b"));
    assert!(load(&(named("a") + caller), &[]).is_ok());
    assert_eq!(paths(&named("p")), ["tenants[0].on_behalf_client"]);
    assert_eq!(paths(&named("z")), ["tenants[0].on_behalf_client"]);
    assert_eq!(of(private("a") + &client("a", "")), ["tenants[0].slas_clients[1].client_id"]);

    let with_caller = |from: &str, to: &str| of(caller.replace(from, to));
    assert_eq!(
        with_caller("account_manager_client_id = 'a'", "certificate_subject = 'CN=x'"),
        ["callers[0].certificate_subject"]
    );
    assert_eq!(
        with_caller("name = 'c'", "name = 'c'\ncertificate_subject = 'CN=x'"),
        ["callers[0].certificate_subject"]
    );
    assert_eq!(with_caller("'*'", "[]"), ["callers[0].operations"]);
    assert_eq!(with_caller("'on_behalf'", "''"), ["callers[0].may"]);
    assert_eq!(with_caller("'c'", "'a label that is, well, none'"), ["callers[0].name"]);
    assert_eq!(with_caller("'c'", "'guest'"), ["callers[0].name"], "reserved in metrics");
    assert_eq!(with_caller("may", "sites = ['Other']\nmay"), ["callers[0].sites"]);
    assert_eq!(of(format!("{caller}{entry}")), ["callers[1].account_manager_client_id", "callers[1].name"]);
    assert_eq!(of(format!("{caller}{}", entry.replace("= 'c'", "= 'd'"))), ["callers[1].account_manager_client_id"]);

    assert_eq!(of("[admin]\nlisten = '127.0.0.1:8080'".to_owned()), ["admin.listen"]);
    assert_eq!(of("[server]\nlisten = '0.0.0.0:9090'".to_owned()), ["admin.listen"]);
    assert_eq!(of("[server]\nlisten = []".to_owned()), ["server.listen"]);
    assert_eq!(of("[limits]\nmax_header_bytes = 1024".to_owned()), ["limits.max_uri_bytes"]);
    assert_eq!(of("[sessions]\nrefresh_ahead = '29m 30s'".to_owned()), ["sessions.refresh_ahead"]);
    for max_age in ["23h", "31d", "0s", "long"] {
        assert_eq!(of(format!("[keys]\nmax_age = '{max_age}'")), ["keys.max_age"], "{max_age}");
    }
    for max_age in ["24h", "30d"] {
        assert!(load(&format!("{MINIMAL}[keys]\nmax_age = '{max_age}'"), &[]).is_ok(), "{max_age}");
    }
    let free =
        load(&format!("{MINIMAL}[server]\nlisten = '127.0.0.1:0,127.0.0.1:0'\n[admin]\nlisten = '127.0.0.1:0'"), &[]);
    assert_eq!(free.unwrap().settings.server.listen.len(), 2);
}

#[test]
fn insecure_values_cause_warnings() {
    let warned = |text: &str| -> Vec<String> {
        load(text, &[]).unwrap().warnings.into_iter().map(|diagnostic| diagnostic.path).collect()
    };
    assert_eq!(warned(MINIMAL), [""; 0]);
    assert_eq!(warned(&MINIMAL.replace("https://", "http://")), ["tenants[0].api"]);
    for local in ["http://127.0.0.1:8081", "http://localhost:8081", "http://[::1]:8081/"] {
        let text = MINIMAL.replace("https://kv7kzm78.api.commercecloud.salesforce.com", local);
        assert_eq!(warned(&text), [""; 0]);
    }
    assert_eq!(warned(&format!("{MINIMAL}[admin]\nlisten = '0.0.0.0:9090'")), ["admin.listen"]);
    assert_eq!(warned(&with_secret("'literal'")), ["tenants[0].slas_clients[0].client_secret"]);
}

/// A configuration with this table of `[[tenants.origins]]`.
fn with_origin(table: &str) -> String {
    format!("{MINIMAL}\n[[tenants.origins]]\n{table}\n")
}

#[test]
fn origins_are_parsed_with_their_defaults() {
    let settings = load(&with_origin("origin = 'https://www.shop.example'"), &[]).unwrap().settings;
    let [origin] = settings.tenants[0].origins.as_slice() else { panic!("{:?}", settings.tenants[0].origins) };
    assert!(origin.pattern.matches(b"https://www.shop.example") && !origin.credentials && !origin.private_network);
    assert_eq!((origin.max_age, origin.sites.len(), origin.headers.len()), (Duration::from_secs(7200), 0, 0));
    let all = with_origin(
        "origin = 'http://localhost:*'\nsites = ['RefArch']\ncredentials = true\nmax_age = '24h'\nheaders = ['X-A', 'x-b']\n\
         private_network = true",
    );
    let loaded = load(&all, &[]).unwrap();
    assert_eq!(loaded.warnings, []);
    let origin = &loaded.settings.tenants[0].origins[0];
    assert!(origin.credentials && origin.private_network);
    assert_eq!(origin.headers, ["x-a", "x-b"]);
}

#[test]
fn origin_that_matches_no_page_or_too_many_is_rejected_with_its_remedy() {
    for (origin, remedy) in [
        ("*", "name each origin"),
        ("null", "name the origin of the page"),
        ("https://www.shop.example/", "without a slash"),
        ("https://www.shop.example/de", "must not have a path"),
        ("https://WWW.shop.example", "lower case"),
        ("https://www.shop.example:443", "remove the port"),
        ("https://www.shop.example:*", "name the port"),
        ("https://*.*.shop.example", "as the first label of the host"),
        ("https://*.example", "name a host that is yours"),
        ("https://user:PLANTED@www.shop.example", "must not have a user or password"),
        ("www.shop.example", "expected scheme, host and optional port"),
    ] {
        let found = errors(&with_origin(&format!("origin = '{origin}'")), &[]);
        let [only] = found.as_slice() else { panic!("{origin}: {found:?}") };
        assert!(only.starts_with("tenants[0].origins[0].origin: ") && only.contains(remedy), "{origin}: {only}");
        assert!(!only.contains("PLANTED"), "{only}");
    }
}

#[test]
fn origins_with_other_faults_are_rejected() {
    for (table, expected) in [
        ("sites = ['RefArch']", "tenants[0].origins[0].origin: missing"),
        ("origin = 'https://a.shop.example'\nsites = ['RefArhc']", "did you mean RefArch?"),
        ("origin = 'https://a.shop.example'\nmax_age = '25h'", "must be at most 1day"),
        ("origin = 'https://a.shop.example'\nmax_age = '2'", "tenants[0].origins[0].max_age: not a duration"),
        ("origin = 'https://a.shop.example'\nheaders = ['x-*']", "tenants[0].origins[0].headers[0]: * is no name"),
        ("origin = 'https://a.shop.example'\nheaders = ['x y']", "tenants[0].origins[0].headers[0]: not the name"),
        ("origin = 'https://a.shop.example'\ncredential = true", "did you mean `credentials`?"),
        (
            "origin = 'https://a.shop.example'\n[[tenants.origins]]\norigin = 'https://a.shop.example'\nsites = ['RefArch']",
            "tenants[0].origins[1].origin: the same as origins[0].origin",
        ),
    ] {
        let found = errors(&with_origin(table), &[]);
        assert!(found.iter().any(|error| error.contains(expected)), "{expected}: {found:?}");
        assert_eq!(found.len(), 1, "{found:?}");
    }
}

#[test]
fn origins_of_strangers_and_missing_origins_cause_warnings() {
    let warned =
        |text: &str| -> Vec<String> { load(text, &[]).unwrap().warnings.iter().map(ToString::to_string).collect() };
    for (origin, words) in [
        ("http://www.shop.example", "serve the pages over https"),
        ("https://*.vercel.app", "anyone can get a host below this domain"),
        ("https://*.co.uk", "anyone can get a host below this domain"),
        ("https://*.mobify-storefront.com", "anyone can get a host below this domain"),
    ] {
        let found = warned(&with_origin(&format!("origin = '{origin}'")));
        let [only] = found.as_slice() else { panic!("{origin}: {found:?}") };
        assert!(only.starts_with("tenants[0].origins[0].origin: ") && only.contains(words), "{origin}: {only}");
    }
    for origin in ["https://*.shop.example", "http://localhost:3000", "https://shop-git-main.vercel.app"] {
        assert_eq!(warned(&with_origin(&format!("origin = '{origin}'"))), [""; 0], "{origin}");
    }
    let client = |redirect_uri: &str, more: &str| {
        format!("{MINIMAL}{more}\n[[tenants.slas_clients]]\nclient_id = 'c1'\nredirect_uri = '{redirect_uri}'\n")
    };
    let page = "https://www.shop.example/callback";
    let found = warned(&client(page, ""));
    let [only] = found.as_slice() else { panic!("{found:?}") };
    assert!(only.starts_with("tenants[0].origins: missing") && only.contains("[[tenants.origins]]"), "{only}");
    assert_eq!(warned(&client(page, "origins = []")), [""; 0]);
    assert_eq!(warned(&client("http://localhost:3000/callback", "")), [""; 0]);
    assert_eq!(warned(&client("com.shop.app://callback", "")), [""; 0]);
}

#[test]
fn report_mode_and_forwarded_unknown_operations_cause_warnings() {
    let warned = |text: &str, environment: &[(&str, &str)]| {
        let warnings = load(&format!("{MINIMAL}{text}"), environment).unwrap().warnings;
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = ["policy.mode", "policy.unknown_operations"];
    let by_file = warned("[policy]\nmode = 'report'\nunknown_operations = 'forward'", &[]);
    let variables = ["SHOPPER_GATEWAY__POLICY__MODE", "SHOPPER_GATEWAY__POLICY__UNKNOWN_OPERATIONS"];
    let by_environment = warned("", &[(variables[0], "report"), (variables[1], "forward")]);
    for (position, key) in both.iter().enumerate() {
        assert!(by_file[position].starts_with(&format!("{key}: ")), "{by_file:?}");
        let shown = &by_environment[position];
        assert!(shown.starts_with(&format!("{key}: ")) && shown.contains(variables[position]), "{shown}");
    }
    assert_eq!((by_file.len(), by_environment.len()), (2, 2));
    assert_eq!(warned("[policy]\nmode = 'enforce'\nunknown_operations = 'deny'", &[]), [""; 0]);
}

#[test]
fn ca_file_writable_by_others_is_rejected_and_certificate_causes_warning() {
    let folder = TempDir::new().unwrap();
    let tenant = MINIMAL.replace("sites", "api_ca = 'api-ca'\nsites");
    let store = "[store]\nkind = 'redis'\nurl = { env = 'URL' }\nencryption_key = { env = 'KEY' }\nca = 'redis-ca'\n";
    let files =
        "client_ca = 'client-ca'\nclient_crl = 'client-crl'\ncertificate = 'certificate'\nprivate_key = 'key'\n";
    let text = format!("[server.tls]\n{files}{store}{tenant}");
    let environment = [("URL", "rediss://127.0.0.1:6379/0"), ("KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")];
    let keys = ["server.tls.client_ca", "server.tls.client_crl", "store.ca", "tenants[0].api_ca"];
    let put = |mode| {
        for name in ["client-ca", "client-crl", "redis-ca", "api-ca", "certificate"] {
            write(&folder.path().join(name), "content", mode);
        }
        write(&folder.path().join("key"), "content", 0o400);
        load_in(folder.path(), &text, &environment)
    };
    for mode in [0o666, 0o664, 0o646] {
        let errors = put(mode).unwrap_err().errors;
        assert_eq!(errors.iter().map(|diagnostic| diagnostic.path.as_str()).collect::<Vec<_>>(), keys, "{mode:o}");
        assert!(errors.iter().all(|diagnostic| diagnostic.message.contains("chmod go-w")), "{errors:?}");
    }
    for mode in [0o644, 0o444, 0o400] {
        assert_eq!(put(mode).unwrap().warnings, [], "{mode:o}");
    }
    write(&folder.path().join("certificate"), "content", 0o666);
    let warnings = load_in(folder.path(), &text, &environment).unwrap().warnings;
    assert_eq!(
        warnings.iter().map(|diagnostic| diagnostic.path.as_str()).collect::<Vec<_>>(),
        ["server.tls.certificate"]
    );
    let alone =
        format!("[server.tls]\ncertificate = 'certificate'\nprivate_key = 'key'\nclient_crl = 'client-crl'\n{MINIMAL}");
    let error = load_in(folder.path(), &alone, &[]).unwrap_err().to_string();
    assert!(error.contains("server.tls.client_crl: the gateway requests no client certificates"), "{error}");
}

/// A configuration with a store in Redis, and additional lines.
fn with_redis(more: &str) -> String {
    format!("[store]\nkind = 'redis'\nurl = {{ env = 'URL' }}\nencryption_key = {{ env = 'KEY' }}\n{more}\n{MINIMAL}")
}

#[test]
fn unused_store_key_is_rejected() {
    let folder = TempDir::new().unwrap();
    for name in ["ca", "sentinel-ca", "certificate"] {
        write(&folder.path().join(name), "content", 0o644);
    }
    write(&folder.path().join("key"), "content", 0o400);
    let load = |url: &str, lines: &str| {
        let environment = [("URL", url), ("KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")];
        match load_in(folder.path(), &with_redis(lines), &environment) {
            Ok(loaded) => loaded.warnings.iter().map(|diagnostic| diagnostic.path.clone()).collect(),
            Err(found) => found.errors.iter().map(|diagnostic| diagnostic.path.clone()).collect::<Vec<_>>(),
        }
    };
    let (ca, pair) = ("ca = 'ca'", "certificate = 'certificate'\nprivate_key = 'key'");
    let (user, password) = ("sentinel_username = 'u'", "sentinel_password = { env = 'KEY' }");
    let (one, watched) = ("redis://a", "redis+sentinel://a/shop");
    for (url, lines, wrong) in [
        (one, String::new(), vec![]),
        ("unix:///run/redis.sock", String::new(), vec![]),
        ("redis://[::1]:6379/0", String::new(), vec![]),
        (one, format!("{ca}\n{pair}"), vec!["store.ca", "store.certificate"]),
        ("rediss://a", format!("{ca}\n{pair}"), vec![]),
        ("rediss+cluster://a,b", format!("{ca}\n{pair}"), vec![]),
        ("unix:///run/redis.sock", ca.to_owned(), vec!["store.ca"]),
        ("rediss://a", "certificate = 'certificate'".to_owned(), vec!["store.private_key"]),
        ("rediss://a", "private_key = 'key'".to_owned(), vec!["store.certificate"]),
        ("rediss://a", format!("{user}\n{password}"), vec!["store.sentinel_username", "store.sentinel_password"]),
        (
            "rediss://a",
            "sentinel_tls = true\nsentinel_ca = 'sentinel-ca'".to_owned(),
            vec!["store.sentinel_tls", "store.sentinel_ca"],
        ),
        (watched, format!("{user}\n{password}"), vec![]),
        (watched, password.to_owned(), vec![]),
        (watched, user.to_owned(), vec!["store.sentinel_password"]),
        (watched, "sentinel_ca = 'sentinel-ca'".to_owned(), vec!["store.sentinel_ca"]),
        (watched, "sentinel_tls = true\nsentinel_ca = 'sentinel-ca'".to_owned(), vec![]),
        ("rediss+sentinel://a/shop", "sentinel_ca = 'sentinel-ca'".to_owned(), vec![]),
        ("rediss+sentinel://a/shop", "sentinel_tls = false\nca = 'ca'".to_owned(), vec![]),
        (
            "rediss+sentinel://a/shop",
            "sentinel_tls = false\nsentinel_ca = 'sentinel-ca'".to_owned(),
            vec!["store.sentinel_ca"],
        ),
    ] {
        assert_eq!(
            BTreeSet::from_iter(load(url, &lines)),
            wrong.into_iter().map(str::to_owned).collect(),
            "{url}: {lines}"
        );
    }
    let memory =
        "[store]\ncertificate = 'certificate'\nprivate_key = 'key'\nsentinel_tls = true\nsentinel_username = 'u'";
    let wrong = paths(&format!("{memory}\n{MINIMAL}"));
    assert_eq!(wrong, ["store.certificate", "store.private_key", "store.sentinel_tls", "store.sentinel_username"]);
    // A user with access to the key can impersonate the gateway.
    write(&folder.path().join("key"), "content", 0o644);
    assert_eq!(load("rediss://a", pair), ["store.private_key"]);
}

#[test]
fn password_in_store_url_causes_warning_also_in_socket_query() {
    let store =
        |url: &str| format!("[store]\nkind = 'redis'\nurl = '{url}'\nencryption_key = {{ env = 'KEY' }}\n{MINIMAL}");
    let environment = [("KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")];
    let warned = |url: &str| load(&store(url), &environment).unwrap().warnings.len();
    assert_eq!((warned("unix:///run/redis.sock?db=1"), warned("redis://a")), (0, 0));
    assert_eq!((warned("unix:///run/redis.sock?db=1&pass=pw"), warned("redis://:pw@a")), (1, 1));
}

#[test]
fn relative_paths_start_at_configuration_directory() {
    let text = format!("{MINIMAL}[log]\naudit_file = 'audit.jsonl'\n");
    for name in ["gateway.toml", "./gateway.toml"] {
        let loaded = Settings::from_text(Path::new(name), &text, []).unwrap();
        assert_eq!(loaded.settings.log.audit_file, Some(PathBuf::from("./audit.jsonl")), "{name}");
    }
}

#[test]
fn origin_with_more_than_host_and_port_is_rejected() {
    for api in [
        "https://x.example/path",
        "https://x.example?q",
        "https://x.example#f",
        "https://u@x.example",
        "ftp://x.example",
        "data:x",
        "x",
    ] {
        let text = MINIMAL.replace("https://kv7kzm78.api.commercecloud.salesforce.com", api);
        assert_eq!(paths(&text), ["tenants[0].api"], "{api}");
    }
}

#[test]
fn jwks_cache_dir_writable_by_others_is_rejected() {
    let place = TempDir::new().unwrap();
    let in_folder = |folder: &str| load_in(place.path(), &format!("{MINIMAL}[keys]\njwks_cache_dir = '{folder}'"), &[]);
    let refused = |folder: &str| in_folder(folder).unwrap_err().errors[0].to_string();
    assert_eq!(
        in_folder("state").unwrap().settings.keys.jwks_cache_dir,
        Some(place.path().join("state")),
        "created at the start"
    );
    assert!(!place.path().join("state").exists(), "not created by a check");
    assert!(refused("no/state").contains("no/state does not exist"));
    assert!(refused("gateway.toml").contains("is not a directory"));
    fs::create_dir(place.path().join("open")).unwrap();
    fs::set_permissions(place.path().join("open"), Permissions::from_mode(0o775)).unwrap();
    let message = refused("open");
    assert!(message.starts_with("keys.jwks_cache_dir: ") && message.contains("chmod go-w"), "{message}");
    assert!(in_folder("open/state").is_ok());
}
