//! Certificate authorities for a test, made with `openssl`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use reqwest::{Certificate, ClientBuilder, Identity};

/// The extensions, so that the certificates do not depend on this machine's openssl configuration.
const EXTENSIONS: &str = "[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
[client]
basicConstraints = critical, CA:FALSE
extendedKeyUsage = clientAuth
subjectAltName = DNS:caller.example
";

/// The settings with which `openssl ca` keeps a list of revoked certificates.
const LISTS: &str = "[ca]
default_ca = own
[own]
database = revoked
crlnumber = number
default_md = sha256
crl_extensions = list
[list]
authorityKeyIdentifier = keyid
";

/// A certificate authority. Its files are removed when it is dropped.
pub struct Authority {
    folder: tempfile::TempDir,
    pub certificate: PathBuf,
    private_key: PathBuf,
}

/// A certificate and its key, PEM.
pub struct Issued {
    pub certificate: PathBuf,
    pub private_key: PathBuf,
}

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("extensions"), EXTENSIONS).unwrap();
        let issued = request(folder.path(), "authority", "authority", &subject(folder.path(), "authority"), &[]);
        Self { folder, certificate: issued.certificate, private_key: issued.private_key }
    }

    /// For `localhost` and 127.0.0.1.
    pub fn server(&self) -> Issued {
        self.issue("server")
    }

    /// For these names (as `subjectAltName` takes them).
    pub fn server_for(&self, file: &str, names: &str) -> Issued {
        let folder = self.folder.path();
        fs::write(folder.join("extensions"), EXTENSIONS.replace("DNS:localhost, IP:127.0.0.1", names)).unwrap();
        let own = ["-CA", text(&self.certificate), "-CAkey", text(&self.private_key)];
        request(folder, file, "server", &format!("/CN={file}"), &own)
    }

    /// A certificate under another file name.
    pub fn server_named(&self, file: &str) -> Issued {
        let own = ["-CA", text(&self.certificate), "-CAkey", text(&self.private_key)];
        request(self.folder.path(), file, "server", &format!("/CN={file}"), &own)
    }

    pub fn client(&self) -> Issued {
        self.issue("client")
    }

    /// For a client with this subject (as `openssl -subj` takes it) and these alternative names.
    pub fn client_named(&self, subject: &str, names: &str) -> Issued {
        let folder = self.folder.path();
        let file = format!("client-{}", fs::read_dir(folder).unwrap().count());
        fs::write(folder.join("extensions"), EXTENSIONS.replace("DNS:caller.example", names)).unwrap();
        let own = ["-CA", text(&self.certificate), "-CAkey", text(&self.private_key), "-utf8"];
        request(folder, &file, "client", subject, &own)
    }

    /// Revokes this certificate, and returns the revocation list (PEM).
    pub fn revocation_list(&self, revoked: Option<&Issued>) -> PathBuf {
        let folder = self.folder.path();
        if !folder.join("revoked").exists() {
            fs::write(folder.join("lists"), LISTS).unwrap();
            fs::write(folder.join("revoked"), "").unwrap();
            fs::write(folder.join("number"), "01\n").unwrap();
        }
        let own = ["ca", "-config", "lists", "-keyfile", text(&self.private_key), "-cert", text(&self.certificate)];
        let run = |arguments: &[&str]| {
            let output = Command::new("openssl").args(own).args(arguments).current_dir(folder).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        if let Some(issued) = revoked {
            run(&["-revoke", text(&issued.certificate)]);
        }
        run(&["-gencrl", "-crldays", "1", "-out", "list.pem"]);
        folder.join("list.pem")
    }

    /// A client's settings that trust only this authority.
    pub fn trusted(&self) -> ClientBuilder {
        crate::world::install_cryptography();
        let pem = fs::read(&self.certificate).unwrap();
        ClientBuilder::new().no_proxy().tls_certs_only([Certificate::from_pem(&pem).unwrap()])
    }

    fn issue(&self, kind: &str) -> Issued {
        let own = ["-CA", text(&self.certificate), "-CAkey", text(&self.private_key)];
        request(self.folder.path(), kind, kind, &subject(self.folder.path(), kind), &own)
    }
}

fn subject(folder: &Path, kind: &str) -> String {
    format!("/CN={kind} of {}", folder.file_name().unwrap().display())
}

impl Issued {
    pub fn identity(&self) -> Identity {
        let pem = [fs::read(&self.certificate).unwrap(), fs::read(&self.private_key).unwrap()].concat();
        Identity::from_pem(&pem).unwrap()
    }

    /// `[server.tls]` with this certificate.
    pub fn listener(&self) -> toml::Table {
        let mut table = toml::Table::new();
        table.insert("certificate".into(), text(&self.certificate).into());
        table.insert("private_key".into(), text(&self.private_key).into());
        table
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn request(folder: &Path, file: &str, extensions: &str, subject: &str, signer: &[&str]) -> Issued {
    let issued =
        Issued { certificate: folder.join(format!("{file}.pem")), private_key: folder.join(format!("{file}.key")) };
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
        .args(["-subj", subject, "-config", text(&folder.join("extensions"))])
        .args(["-extensions", extensions, "-out", text(&issued.certificate), "-keyout", text(&issued.private_key)])
        .args(signer)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    issued
}
