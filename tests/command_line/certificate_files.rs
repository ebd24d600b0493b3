//! Files of certificates, keys and revocation lists that a configuration names.
//!
//! `check` accepts them as people and tools write them, and names the defect of a file that is unusable or expires
//! soon.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::{DEMO, run, text};

/// The first characters of keys in base64, which no error may show.
const KEY_TEXT: [&str; 3] = ["MIGH", "MIIE", "MHcC"];

/// The extensions of certificates, and the settings of revocation lists, for `openssl`.
const OPENSSL: &str = "[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost
[ca]
default_ca = own
[own]
database = revoked
crlnumber = number
new_certs_dir = .
rand_serial = yes
unique_subject = no
policy = any
default_md = sha256
crl_extensions = list
[any]
commonName = supplied
[list]
authorityKeyIdentifier = keyid
";

/// A folder with an authority (`ca.pem`, `ca.key`), a server's certificate (`server.pem`, `server.key`) and the authority's
/// revocation list (`list.pem`).
pub(crate) struct Files(TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        fs::write(files.path("openssl.cnf"), OPENSSL).unwrap();
        fs::write(files.path("revoked"), "").unwrap();
        fs::write(files.path("number"), "01\n").unwrap();
        files.issue("ca", "-extensions authority -days 400");
        files.issue("server", "-extensions server -days 90 -CA ca.pem -CAkey ca.key");
        files.openssl("ca -config openssl.cnf -keyfile ca.key -cert ca.pem -gencrl -crldays 30 -out list.pem");
        files
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, line: &str) {
        let made = Command::new("openssl").args(line.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(made.status.success(), "openssl {line}: {}", text(&made.stderr));
    }

    /// A certificate and its key, with this name and these options.
    pub(crate) fn issue(&self, name: &str, options: &str) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config openssl.cnf";
        self.openssl(&format!("req -x509 {key} -subj /CN={name} {options} -out {name}.pem -keyout {name}.key"));
    }

    /// A certificate of the authority for `localhost` with these times, or a new certificate of the authority itself.
    pub(crate) fn sign(&self, name: &str, kind: &str, times: &str) {
        let signer = if kind == "server" { "-cert ca.pem" } else { "-selfsign" };
        let key = if kind == "server" { "server.key" } else { "ca.key" };
        self.openssl(&format!("req -new -key {key} -config openssl.cnf -subj /CN={name} -out {name}.csr"));
        let sign = "ca -config openssl.cnf -batch -notext -keyfile ca.key";
        self.openssl(&format!("{sign} -extensions {kind} {signer} {times} -in {name}.csr -out {name}.pem"));
        fs::copy(self.path(key), self.path(&format!("{name}.key"))).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The output of `check` with these files in place of the valid ones.
    fn check(&self, files: &[(FileKey, &str)], environment: &[(&str, &str)]) -> (Option<i32>, String) {
        let mut config: toml::Table = fs::read_to_string(DEMO).unwrap().parse().unwrap();
        let mut tls = toml::Table::new();
        let good = [
            (FileKey::Certificate, "server.pem"),
            (FileKey::PrivateKey, "server.key"),
            (FileKey::ClientCa, "ca.pem"),
            (FileKey::ClientCrl, "list.pem"),
            (FileKey::ApiCa, "ca.pem"),
        ];
        for (key, name) in good.iter().chain(files) {
            let path = self.path(name);
            if path.is_file() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            }
            let path: toml::Value = path.to_str().unwrap().into();
            match key {
                FileKey::ApiCa => config["tenants"][0].as_table_mut().unwrap().insert("api_ca".into(), path),
                key => tls.insert(key.name().into(), path),
            };
        }
        config["server"].as_table_mut().unwrap().insert("tls".into(), tls.into());
        let path = self.path("gateway.toml");
        fs::write(&path, config.to_string()).unwrap();
        let output = run(&["check", "-c", path.to_str().unwrap()], environment);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(!said.contains("panick") && !KEY_TEXT.iter().any(|text| said.contains(text)), "{said}");
        (output.status.code(), said)
    }

    /// The one error of `check` with this file, which names the key.
    fn error(&self, key: FileKey, name: &str) -> String {
        let (code, said) = self.check(&[(key, name)], &[]);
        let errors: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("error: ")).collect();
        let [error] = errors.as_slice() else { panic!("{key:?} {name}: {said}") };
        assert!(code == Some(1) && error.starts_with(key.path()), "{key:?} {name}: {error}");
        error.to_string()
    }

    /// The warnings of certificates of `check` with these files, which are no error.
    fn warnings(&self, files: &[(FileKey, &str)]) -> Vec<String> {
        let (code, said) = self.check(files, &[]);
        assert_eq!(code, Some(0), "{said}");
        let warnings = said.lines().filter_map(|line| line.strip_prefix("warning: "));
        warnings.filter(|line| line.contains(".pem")).map(str::to_owned).collect()
    }
}

/// The keys that name such files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileKey {
    Certificate,
    PrivateKey,
    ClientCa,
    ClientCrl,
    ApiCa,
}

impl FileKey {
    const ALL: [Self; 5] = [Self::Certificate, Self::PrivateKey, Self::ClientCa, Self::ClientCrl, Self::ApiCa];

    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private_key",
            Self::ClientCa => "client_ca",
            Self::ClientCrl => "client_crl",
            Self::ApiCa => "api_ca",
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Certificate => "server.tls.certificate: ",
            Self::PrivateKey => "server.tls.private_key: ",
            Self::ClientCa => "server.tls.client_ca: ",
            Self::ClientCrl => "server.tls.client_crl: ",
            Self::ApiCa => "tenants[0].api_ca: ",
        }
    }

    /// The good file.
    fn good(self) -> &'static str {
        match self {
            Self::Certificate => "server.pem",
            Self::PrivateKey => "server.key",
            Self::ClientCa | Self::ApiCa => "ca.pem",
            Self::ClientCrl => "list.pem",
        }
    }
}

#[test]
fn file_in_form_of_other_tools_is_accepted() {
    let files = Files::new();
    for key in FileKey::ALL {
        let good = files.read(key.good());
        let bag = format!("Bag Attributes\n    localKeyID: 01\nsubject=CN = s\n\n{good}");
        for (name, written) in [
            ("mark", format!("\u{feff}{good}")),
            ("crlf", good.replace('\n', "\r\n")),
            ("cr", good.replace('\n', "\r")),
            ("bag", bag),
            ("mark-and-crlf", format!("\u{feff}{}", good.replace('\n', "\r\n"))),
            ("blank-lines", format!("\n\n{good}\n\n")),
        ] {
            files.write("other", written);
            let (code, said) = files.check(&[(key, "other")], &[]);
            assert_eq!(code, Some(0), "{key:?} {name}: {said}");
        }
    }
    // Key and certificate in one file, in either order.
    files.write("one", files.read("server.key") + &files.read("server.pem"));
    assert_eq!(files.check(&[(FileKey::Certificate, "one"), (FileKey::PrivateKey, "one")], &[]).0, Some(0));
}

#[test]
fn unusable_file_error_names_its_kind_and_remedy() {
    let files = Files::new();
    files.openssl("x509 -in server.pem -outform der -out server.der");
    files.openssl("pkey -in server.key -outform der -out key.der");
    files.openssl("crl -in list.pem -outform der -out list.der");
    files.openssl("pkcs12 -export -in server.pem -inkey server.key -passout pass:x -out server.p12");
    files.openssl("crl2pkcs7 -nocrl -certfile server.pem -out server.p7b");
    files.openssl("crl2pkcs7 -nocrl -certfile server.pem -outform der -out server.p7");
    files.openssl("pkey -in server.key -aes256 -passout pass:x -out encrypted.key");
    files.openssl("pkcs8 -topk8 -in server.key -outform der -passout pass:x -out encrypted.der");
    files.openssl("ec -in server.key -aes256 -passout pass:x -out old-encrypted.key");
    files.openssl("x509 -in server.pem -trustout -out trusted.pem");
    files.write("dsa.key", "-----BEGIN DSA PRIVATE KEY-----\nMAA=\n-----END DSA PRIVATE KEY-----\n");
    files.write("both.key", files.read("encrypted.key") + &files.read("server.key"));
    assert_eq!(files.check(&[(FileKey::PrivateKey, "both.key")], &[]).0, Some(0), "one of them needs no passphrase");
    files.openssl("req -new -key server.key -config openssl.cnf -subj /CN=s -out request.pem");
    files.openssl("pkey -in server.key -pubout -out public.pem");
    let utf_16: Vec<u8> = files.read("server.pem").encode_utf16().flat_map(u16::to_le_bytes).collect();
    files.write("utf-16", [&b"\xff\xfe"[..], &utf_16].concat());
    files.write("empty", "");
    files.write("blank", "\r\n \n");
    files.write("store.jks", b"\xfe\xed\xfe\xed\0\0\0\x02");
    files.write("noise", b"\x80\x81 no PEM");
    files.write("base64", files.read("server.pem").replace("-----BEGIN CERTIFICATE-----\n", "").replace('-', ""));

    for key in FileKey::ALL {
        for (name, words) in [
            ("empty", "it is empty"),
            ("blank", "it is empty"),
            ("utf-16", "UTF-16"),
            ("noise", "expected PEM"),
            ("base64", "expected PEM"),
            ("server.p12", "PKCS#12"),
            ("store.jks", "a Java key store"),
        ] {
            let error = files.error(key, name);
            assert!(error.contains(words) && error.contains(files.path(name).to_str().unwrap()), "{key:?}: {error}");
        }
        let error = files.error(key, ".");
        assert!(error.contains("directory"), "{error}");
    }
    for key in [FileKey::Certificate, FileKey::ClientCa, FileKey::ApiCa] {
        for (name, words) in [
            ("server.der", "a certificate in DER, not PEM; run `openssl x509 -inform der"),
            ("server.key", "it has no certificate but a private key"),
            ("encrypted.key", "it has no certificate but a private key"),
            ("list.pem", "it has no certificate but a revocation list"),
            ("request.pem", "an authority has to sign first"),
            ("trusted.pem", "OpenSSL's own form"),
            ("server.p7b", "PKCS#7 container; run `openssl pkcs7 -in"),
            ("server.p7", "PKCS#7 container; run `openssl pkcs7 -inform der"),
            ("public.pem", "it has no certificate but a public key"),
        ] {
            let error = files.error(key, name);
            assert!(error.contains(words), "{key:?} {name}: {error}");
        }
    }
    for (name, words) in [
        ("encrypted.key", "the private key is encrypted"),
        ("old-encrypted.key", "the private key is encrypted"),
        ("encrypted.der", "the private key is encrypted"),
        ("key.der", "a private key in DER, not PEM"),
        ("dsa.key", "of a kind that TLS does not use"),
        ("server.pem", "are certificate and private_key exchanged?"),
        ("public.pem", "it has no private key but a public key"),
        ("list.pem", "it has no private key but a revocation list"),
    ] {
        let error = files.error(FileKey::PrivateKey, name);
        assert!(error.contains(words), "{name}: {error}");
    }
    for (name, words) in [
        ("list.der", "a revocation list in DER, not PEM; run `openssl crl -inform der"),
        ("ca.pem", "it has no revocation list but a certificate"),
    ] {
        let error = files.error(FileKey::ClientCrl, name);
        assert!(error.contains(words), "{name}: {error}");
    }
}

#[test]
fn truncated_or_damaged_file_is_reported() {
    let files = Files::new();
    for key in FileKey::ALL {
        let good = files.read(key.good());
        let (begin, rest) = good.split_once('\n').unwrap();
        for (name, written, words) in [
            ("no-end", good.split("-----END").next().unwrap().to_owned(), "no END line"),
            ("no-base64", format!("{begin}\n!!!{rest}"), "not base64"),
            ("begin", good.replacen("-----\n", "----\n", 1), "five hyphens"),
        ] {
            files.write(name, written);
            let error = files.error(key, name);
            assert!(error.contains(words), "{key:?} {name}: {error}");
        }
    }
}

#[test]
fn unusable_authority_in_bundle_is_reported_with_number_file_and_tenant() {
    let files = Files::new();
    let hollow = "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n";
    files.write("both.pem", files.read("ca.pem") + hollow + &files.read("ca.pem"));
    for key in [FileKey::ApiCa, FileKey::ClientCa] {
        let error = files.error(key, "both.pem");
        assert!(error.contains("both.pem: certificate 2 of 3 cannot be used"), "{error}");
        assert_eq!(error.contains("f_ecom_zzrf_001"), key == FileKey::ApiCa, "{error}");
    }
    // The TLS library accepts this certificate, because it checks no dates. The proxy library would end the process.
    files.openssl("x509 -in ca.pem -outform der -out ca.der");
    let mut undated = fs::read(files.path("ca.der")).unwrap();
    let date = undated.windows(2).position(|two| two == [0x17, 13]).unwrap();
    undated[date + 2..date + 15].fill(b'x');
    files.write("undated.der", undated);
    files.openssl("base64 -in undated.der -out undated.b64");
    let undated = files.read("undated.b64");
    files.write("undated.pem", format!("-----BEGIN CERTIFICATE-----\n{undated}-----END CERTIFICATE-----\n"));
    let error = files.error(FileKey::ApiCa, "undated.pem");
    assert!(error.contains("certificate 1 of 1 cannot be used"), "{error}");
    files.write("chain.pem", files.read("server.pem") + hollow);
    let error = files.error(FileKey::Certificate, "chain.pem");
    assert!(error.contains("certificate 2 is not an X.509 certificate"), "{error}");
}

#[test]
fn key_of_later_certificate_in_file_is_reported() {
    let files = Files::new();
    files.write("reversed.pem", files.read("ca.pem") + &files.read("server.pem"));
    let (code, said) = files.check(&[(FileKey::Certificate, "reversed.pem")], &[]);
    let words = "the key is that of certificate 2 in the file: the server's own certificate must be the first";
    assert!(code == Some(1) && said.contains("error: server.tls: ") && said.contains(words), "{said}");
    let (code, said) = files.check(&[(FileKey::PrivateKey, "ca.key")], &[]);
    assert!(code == Some(1) && said.contains("do not fit together") && !said.contains("must be the first"), "{said}");
}

#[test]
fn expired_future_or_soon_expiring_certificate_is_a_warning() {
    let files = Files::new();
    assert_eq!(files.warnings(&[]), Vec::<String>::new(), "all are good for longer");
    for (name, times, words) in [
        ("expired", "-startdate 20200101000000Z -enddate 20200201000000Z", "expired at 2020-02-01T00:00:00Z"),
        ("future", "-startdate 20900101000000Z -enddate 20900201000000Z", "is not valid before 2090-01-01T00:00:00Z"),
        ("ending", "-days 20", "expires at 20"),
    ] {
        files.sign(&format!("{name}-server"), "server", times);
        files.sign(name, "authority", times);
        for (key, file) in [
            (FileKey::Certificate, format!("{name}-server.pem")),
            (FileKey::ApiCa, format!("{name}.pem")),
            (FileKey::ClientCa, format!("{name}.pem")),
        ] {
            // Client authorities and their revocation lists are checked in another test.
            let files_used = [(key, file.as_str())];
            let (code, said) = if key == FileKey::ClientCa {
                files.openssl(&format!(
                    "ca -config openssl.cnf -keyfile ca.key -cert {file} -gencrl -crldays 30 -out {name}-list.pem"
                ));
                files.check(&[(key, file.as_str()), (FileKey::ClientCrl, &format!("{name}-list.pem"))], &[])
            } else {
                files.check(&files_used, &[])
            };
            let line =
                said.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("{key:?} {name}: {said}"));
            assert!(code == Some(0) && line.starts_with(&format!("warning: {}", key.path())), "{line}");
            assert!(line.contains(&format!("CN={name}")) && line.contains(&file), "{line}");
        }
    }
    // A bundle has one line, even if several certificates are wrong.
    files.write("bundle.pem", files.read("ca.pem") + &files.read("expired.pem") + &files.read("ending.pem"));
    let warnings = files.warnings(&[(FileKey::ApiCa, "bundle.pem")]);
    assert!(warnings.len() == 1 && warnings[0].contains("1 more of the 3 certificates"), "{warnings:?}");
}

#[test]
fn expired_or_foreign_revocation_list_is_reported() {
    let files = Files::new();
    let list = "ca -config openssl.cnf -gencrl";
    files.openssl(&format!(
        "{list} -keyfile ca.key -cert ca.pem -crl_lastupdate 20200101000000Z -crl_nextupdate 20200108000000Z -out old.pem"
    ));
    let warnings = files.warnings(&[(FileKey::ClientCrl, "old.pem")]);
    let words = "old.pem: the list of CN=ca expired at 2020-01-08T00:00:00Z";
    assert!(warnings.len() == 1 && warnings[0].contains(words), "{warnings:?}");

    files.issue("stranger", "-extensions authority -days 400");
    files.openssl(&format!("{list} -keyfile stranger.key -cert stranger.pem -crldays 30 -out strange.pem"));
    let error = files.error(FileKey::ClientCrl, "strange.pem");
    assert!(error.contains("every client certificate would be rejected") && error.contains("CN=stranger"), "{error}");

    // A renewed authority has its old name and another key.
    files.issue("ca-renewed", "-extensions authority -days 400 -subj /CN=ca");
    files.openssl(&format!("{list} -keyfile ca-renewed.key -cert ca-renewed.pem -crldays 30 -out renewed.pem"));
    let error = files.error(FileKey::ClientCrl, "renewed.pem");
    assert!(error.contains("every client certificate would be rejected"), "{error}");

    // One of two authorities has no revocation list.
    files.write("two.pem", files.read("ca.pem") + &files.read("stranger.pem"));
    let warnings = files.warnings(&[(FileKey::ClientCa, "two.pem")]);
    assert!(warnings.len() == 1 && warnings[0].contains("no list of CN=stranger"), "{warnings:?}");
    files.write("lists.pem", files.read("list.pem") + &files.read("strange.pem"));
    assert_eq!(
        files.warnings(&[(FileKey::ClientCa, "two.pem"), (FileKey::ClientCrl, "lists.pem")]),
        Vec::<String>::new()
    );
}

/// The demo's configuration with this API and Account Manager.
fn with_servers(folder: &Path, api: &str, manager: &str, change: impl FnOnce(&mut toml::Table)) -> PathBuf {
    let mut config: toml::Table = fs::read_to_string(DEMO).unwrap().parse().unwrap();
    config["tenants"][0]["api"] = api.into();
    config["tenants"][0]["account_manager"]["url"] = manager.into();
    change(&mut config);
    let path = folder.join("gateway.toml");
    fs::write(&path, config.to_string()).unwrap();
    path
}

#[test]
fn missing_system_authorities_are_an_error_only_for_https() {
    let files = Files::new();
    let (http, https) = ("http://127.0.0.1:9", "https://127.0.0.1:9");
    let empty = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", "/nonexistent")];
    let own = files.path("ca.pem");
    let trusts = |config: &mut toml::Table| {
        config["tenants"][0].as_table_mut().unwrap().insert("api_ca".into(), own.to_str().unwrap().into());
    };
    for (api, manager, has_own, keys) in [
        (http, http, false, &[][..]),
        (https, http, false, &["tenants[0].api"][..]),
        (https, https, false, &["tenants[0].account_manager.url", "tenants[0].api"]),
        (https, https, true, &["tenants[0].account_manager.url"]),
        (https, http, true, &[]),
    ] {
        let path = with_servers(files.0.path(), api, manager, |config| {
            if has_own {
                trusts(config);
            }
        });
        let path = path.to_str().unwrap();
        for command in ["check", "serve"] {
            if command == "serve" && keys.is_empty() {
                continue;
            }
            let said = text(&run(&[command, "-c", path], &empty).stderr);
            let named: Vec<_> =
                said.lines().filter_map(|line| line.strip_prefix("error: ")?.split(": ").next()).collect();
            assert_eq!(named, keys, "{command} {api} {manager}: {said}");
            assert!(said.lines().filter(|line| line.starts_with("error")).all(|line| line.contains("ca-certificates")));
        }
    }
    // A missing file or a bad certificate does not hide the others.
    files.write(
        "system.pem",
        files.read("ca.pem") + "-----BEGIN CERTIFICATE-----\nMIIBAAAA\n-----END CERTIFICATE-----\n",
    );
    let path = with_servers(files.0.path(), https, https, |_| {});
    let system = files.path("system.pem");
    let output = run(&["check", "-c", path.to_str().unwrap()], &[("SSL_CERT_FILE", system.to_str().unwrap())]);
    let said = text(&output.stdout);
    assert!(output.status.success() && said.contains("1 of the system's authorities cannot be used"), "{output:?}");
}
