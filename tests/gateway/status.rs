//! `/status`: the page for people, its JSON form, and the migration report.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::StatusCode;
use salesforce_simulator::{Effect, Fault};
use serde_json::Value;
use tokio::process::Command;

use crate::world::{
    Answer, LOGIN, ORGANIZATION, PASSWORD, PRIVATE_CLIENT, PUBLIC_CLIENT, World, eventually, login_target,
};

/// A browser that loads one small page takes no longer than this on a slow machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(120);
const HTML: &str = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
const DARK: [&str; 2] = ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"];
/// Texts with which a caller may try to inject markup into the page.
const HOSTILE: &str = "%3Cscript%3Ealert(1)%3C/script%3E%22%27%26";

async fn status(world: &World, query: &str, accept: &str) -> Answer {
    let request = world.client.get(format!("http://{}/status{query}", world.gateway.admin)).header("accept", accept);
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

async fn as_json(world: &World, query: &str) -> Value {
    let answer = status(world, query, "*/*").await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (StatusCode::OK, Some("application/json")),
        "{}",
        answer.text()
    );
    answer.json()
}

/// Uses of deprecated logins by known and unknown clients.
async fn use_deprecated_logins(world: &World) {
    for _ in 0..3 {
        world.guest(PUBLIC_CLIENT).await;
    }
    world.log_in(PRIVATE_CLIENT, LOGIN, PASSWORD).await;
    world.guest("99999999-9999-4999-8999-999999999999").await;
    world.send(world.post(&login_target(HOSTILE)).body(r#"{"type":"guest"}"#)).await;
}

#[tokio::test]
async fn status_returns_json_by_default() {
    let world = World::start().await;
    use_deprecated_logins(&world).await;
    let state = as_json(&world, "").await;
    assert_eq!(state["readiness"]["ready"], true);
    assert_eq!(state["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(state["policy"]["mode"], "enforce");
    assert_eq!((&state["store"]["kind"], &state["store"]["up"]), (&"memory".into(), &true.into()));
    assert_eq!(state["sessions"], 4);
    assert_eq!(state["tokens"]["verified"], 4);
    assert_eq!(state["callers"][0]["name"], "experience-cloud");
    let services: Vec<_> =
        state["breakers"].as_array().unwrap().iter().map(|one| (&one["service"], &one["open"])).collect();
    let closed = Value::Bool(false);
    let [account_manager, api, slas] = ["account_manager", "api", "slas"].map(Value::from);
    assert_eq!(services, [(&account_manager, &closed), (&api, &closed), (&slas, &closed)]);
    let organizations: Vec<_> = state["tenants"].as_array().unwrap().iter().map(|one| &one["organization"]).collect();
    assert_eq!(organizations, [ORGANIZATION, "f_ecom_zzrf_002"]);
    // SLAS's response concerns only the organization of its request.
    let left = state["tenants"][0]["slas_budget_left"].as_u64().unwrap();
    assert!((1..24_000).contains(&left), "{left}");
    assert_eq!(state["tenants"][1]["slas_budget_left"], Value::Null);
    for keys in state["tenants"][0]["keys"].as_array().unwrap() {
        assert!(keys["age_seconds"].as_u64().unwrap() < 120, "{keys}");
    }
    assert!(state["components"].as_array().unwrap().iter().all(|component| component["state"] == "ok"), "{state}");
}

#[tokio::test]
async fn open_circuit_breaker_and_remaining_budget_are_shown() {
    let world = World::start().await;
    let breakers = async || as_json(&world, "").await["breakers"].clone();
    let slas = |open: bool| serde_json::json!({"service": "slas", "open": open});
    let closed = breakers().await;
    assert!(closed.as_array().unwrap().contains(&slas(false)), "{closed}");
    let page = status(&world, "", HTML).await.text();
    assert!(page.contains(r#"<span class="badge good">closed</span> <span>SLAS</span>"#), "{page}");
    assert!(page.contains("not reported yet") && !page.contains("in this minute"), "{page}");

    world.guest(PUBLIC_CLIENT).await;
    let down = Effect::Status { code: 500, retry_after: None, body: None };
    world.simulator.inject(Fault::on("slas", down).flow("authorize:guest"));
    for _ in 0..6 {
        assert_eq!(world.guest(PUBLIC_CLIENT).await.refusal(), (503, "slas_unavailable"));
    }
    let open = breakers().await;
    let list = open.as_array().unwrap();
    assert!(list.contains(&slas(true)) && list.iter().filter(|one| one["open"] == true).count() == 1, "{open}");
    let page = status(&world, "", HTML).await.text();
    assert!(page.contains(r#"<span class="badge bad">open</span> <span>SLAS</span>"#), "{page}");
    let state = as_json(&world, "").await;
    let left = format!(">{} in this minute</td>", state["tenants"][0]["slas_budget_left"]);
    assert!(page.contains(&left), "{left} is not in {page}");
}

#[tokio::test]
async fn migration_report_lists_uses_by_client() {
    let world = World::start().await;
    let state = as_json(&world, "").await;
    assert_eq!(state["migration"]["uses"], Value::Array(Vec::new()));
    use_deprecated_logins(&world).await;

    let uses = |state: &Value| {
        let rows = state["migration"]["uses"].as_array().unwrap().iter();
        let mut rows: Vec<_> = rows
            .map(|row| {
                let (first, last) = (row["first_seen"].as_str().unwrap(), row["last_seen"].as_str().unwrap());
                assert!(state["migration"]["since"].as_str().unwrap() <= first && first <= last, "{row}");
                format!("{} {} {}", row["client_id"].as_str().unwrap(), row["endpoint"].as_str().unwrap(), row["uses"])
            })
            .collect();
        rows.sort();
        rows
    };
    let all = uses(&as_json(&world, "").await);
    assert_eq!(
        all,
        [format!("{PUBLIC_CLIENT} login 3"), format!("{PRIVATE_CLIENT} login 1"), "unknown login 2".into()]
    );
    let one = as_json(&world, &format!("?client_id={PRIVATE_CLIENT}&endpoint=login&organization={ORGANIZATION}")).await;
    assert_eq!(uses(&one), [format!("{PRIVATE_CLIENT} login 1")]);
    assert!(uses(&as_json(&world, "?endpoint=logout").await).is_empty());

    let csv = status(&world, "?format=csv&client_id=unknown", HTML).await;
    assert_eq!(csv.header("content-type"), Some("text/csv; charset=utf-8; header=present"));
    assert_eq!(csv.header("content-disposition"), Some("attachment; filename=\"migration-report.csv\""));
    let lines: Vec<String> = csv.text().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "organization,client_id,endpoint,uses,first_seen,last_seen");
    assert!(lines.len() == 2 && lines[1].starts_with(&format!("{ORGANIZATION},unknown,login,2,20")), "{lines:?}");
}

#[tokio::test]
async fn status_page_shows_no_text_chosen_by_callers() {
    let world = World::start().await;
    use_deprecated_logins(&world).await;
    let query = format!("?client_id={HOSTILE}&organization={HOSTILE}&endpoint={HOSTILE}&x={HOSTILE}");
    for (query, said) in
        [("", "Uses"), (&query, "names an unknown organization"), ("?endpoint=logout", "No usage matches this filter.")]
    {
        let answer = status(&world, query, HTML).await;
        let page = answer.text();
        assert!(page.contains(said), "{said} is not in {page}");
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{page}");
        for chosen in ["<script", "alert(1)", "%3C", "99999999", LOGIN] {
            assert!(!page.contains(chosen), "{chosen} is on the page");
        }
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        // The page loads nothing.
        for loaded in ["src=", "<link", "@import", "url("] {
            assert!(!page.contains(loaded), "the page loads something by {loaded}");
        }
    }
    let unknown = status(&world, &format!("?format={HOSTILE}"), HTML).await;
    assert_eq!((unknown.status, unknown.text().as_str()), (StatusCode::BAD_REQUEST, "format: html, json or csv\n"));
}

/// A headless Chromium with a new profile.
struct Browser {
    profile: tempfile::TempDir,
}

impl Browser {
    fn new() -> Self {
        Self { profile: tempfile::tempdir().unwrap() }
    }

    /// A browser with JavaScript off.
    fn without_scripts() -> Self {
        let browser = Self::new();
        let folder = browser.profile.path().join("Default");
        std::fs::create_dir(&folder).unwrap();
        let preferences = r#"{"profile": {"default_content_setting_values": {"javascript": 2}}}"#;
        std::fs::write(folder.join("Preferences"), preferences).unwrap();
        browser
    }

    async fn run(&self, arguments: &[&str], url: &str) -> String {
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            .args([
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--virtual-time-budget=2000",
                "--enable-logging=stderr",
            ])
            .arg(format!("--user-data-dir={}", self.profile.path().display()))
            .args(arguments)
            .arg(url)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = tokio::time::timeout(WAIT_TIMEOUT, command.output()).await.expect("the browser takes too long");
        let output = output.expect("chromium, which `make test` installs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        // The browser reports violations of the content security policy on its console.
        assert!(!said.contains("Content Security Policy") && !said.contains("Refused to"), "{said}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn screenshot(&self, file: &Path, size: &str, more: &[&str], url: &str) {
        let screenshot = format!("--screenshot={}", file.display());
        let window = format!("--window-size={size}");
        let mut arguments = vec![screenshot.as_str(), window.as_str()];
        arguments.extend(more);
        self.run(&arguments, url).await;
        let image = std::fs::read(file).unwrap();
        assert!(image.starts_with(b"\x89PNG") && image.len() > 20_000, "{}: {} bytes", file.display(), image.len());
    }
}

fn screenshots() -> PathBuf {
    // The folder of the test binary.
    let binary = std::env::current_exe().unwrap();
    let target = binary.ancestors().nth(3).unwrap();
    let folder = target.join("screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test]
async fn status_page_renders_at_any_width_and_in_dark_mode() {
    let world = World::start().await;
    use_deprecated_logins(&world).await;
    eventually("the key ages are measured", async || {
        let state = as_json(&world, "").await;
        state["components"].as_array().unwrap().iter().all(|component| component["state"] == "ok")
    })
    .await;
    let (browser, folder) = (Browser::without_scripts(), screenshots());
    let url = format!("http://{}/status", world.gateway.admin);
    browser.screenshot(&folder.join("status-desktop.png"), "1280,1560", &[], &url).await;
    browser.screenshot(&folder.join("status-phone.png"), "390,2900", &[], &url).await;
    browser.screenshot(&folder.join("status-dark.png"), "1280,1560", &DARK, &url).await;
}

/// The texts between each occurrence of two delimiters.
fn between<'t>(text: &'t str, before: &'t str, after: &'t str) -> Vec<&'t str> {
    text.split(before).skip(1).map(|rest| rest.split(after).next().unwrap()).collect()
}

#[tokio::test]
async fn report_form_filters_and_downloads_without_javascript() {
    let world = World::start().await;
    use_deprecated_logins(&world).await;
    let browser = Browser::without_scripts();
    let folder = tempfile::tempdir().unwrap();
    let scripted = folder.path().join("scripted.html");
    std::fs::write(&scripted, "<title>still</title><script>document.title = 'moved'</script>").unwrap();
    let still = browser.run(&["--dump-dom"], &format!("file://{}", scripted.display())).await;
    assert!(still.contains("<title>still</title>"), "scripts run: {still}");

    // A form without a script sends its fields as the query of its action.
    let root = format!("http://{}", world.gateway.admin);
    let page = browser.run(&["--dump-dom"], &format!("{root}/status")).await;
    let [form] = between(&page, "<form method=\"get\"", "</form>")[..] else { panic!("no form in {page}") };
    let action = between(form, "action=\"", "\"")[0].split('#').next().unwrap().to_owned();
    assert_eq!(between(form, "<select name=\"", "\""), ["organization", "client_id", "endpoint"]);
    assert!(form.contains(&format!("<option>{PRIVATE_CLIENT}</option>")), "{form}");
    let [button] = between(form, "<button class=\"plain\" name=\"", "\">")[..] else { panic!("no button in {form}") };
    let (name, value) = button.split_once("\" value=\"").unwrap();

    let sent = format!("{root}{action}?organization=&client_id={PRIVATE_CLIENT}&endpoint=");
    let filtered = browser.run(&["--dump-dom"], &sent).await;
    assert_eq!(filtered.matches("data-label=\"Client id\"").count(), 1, "{filtered}");
    assert!(filtered.contains(&format!("<option selected=\"\">{PRIVATE_CLIENT}</option>")), "{filtered}");
    let downloaded = world.client.get(format!("{sent}&{name}={value}")).send().await.unwrap().text().await.unwrap();
    let rows: Vec<_> = downloaded.lines().skip(1).collect();
    let expected = format!("{ORGANIZATION},{PRIVATE_CLIENT},login,1,");
    assert!(rows.len() == 1 && rows[0].starts_with(&expected), "{downloaded}");
}

#[tokio::test]
async fn status_page_fits_phone_and_is_dark_in_dark_mode() {
    let world = World::start().await;
    use_deprecated_logins(&world).await;
    let page = status(&world, "", HTML).await.text();
    // A frame as wide as a small phone, in which the page reports its width and colour. The page comes from a file,
    // without its policy, because it runs no script itself.
    let tell = "parent.postMessage(document.documentElement.scrollWidth + ' of ' + innerWidth + ' on ' + \
                getComputedStyle(document.body).backgroundColor, '*')";
    let hear = "addEventListener('message', message => document.title = message.data)";
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("file://{}", path.display())
    };
    file("page.html", page.replace("</body>", &format!("<script>{tell}</script></body>")));
    let frame = "<iframe src=page.html width=360 height=900></iframe>";
    let outer = file("outer.html", format!("<title>nothing heard</title><script>{hear}</script>{frame}"));
    let browser = Browser::new();
    for (arguments, colour) in [(&[][..], "rgb(245, 246, 248)"), (&DARK, "rgb(18, 21, 27)")] {
        let shown = browser.run(&[arguments, &["--dump-dom"]].concat(), &outer).await;
        let title = shown.split_once("<title>").unwrap().1.split_once("</title>").unwrap().0;
        assert_eq!(title, format!("360 of 360 on {colour}"));
    }
}
