//! The contents of a file that should be PEM: the expected sections, or what the file contains instead and what to do.

use std::{
    fs::File,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
};

use rustls::pki_types::{
    PrivateKeyDer,
    pem::{self, PemObject as _, SectionKind},
};
use secrecy::{ExposeSecret, SecretSlice};
use x509_cert::{Certificate, crl::CertificateList, der::Decode};

use super::file_error::FileError;

/// Larger than any known revocation list. A wrong path must not fill the memory.
const MAX_FILE_BYTES: u64 = 256 * 1024 * 1024;
const UTF8_BOM: &[u8] = b"\xef\xbb\xbf";
const UTF16_BOMS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
/// First bytes of Java key stores: JKS and JCEKS.
const JAVA_KEYSTORE_MAGIC: [&[u8]; 2] = [b"\xfe\xed\xfe\xed", b"\xce\xce\xce\xce"];
/// In DER: the OID of PKCS#7 `SignedData` (1.2.840.113549.1.7.2), and the prefixes of password-based encryption
/// (1.2.840.113549.1.5 and 1.2.840.113549.1.12).
const PKCS7_SIGNED_DATA_OID: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02";
const PASSWORD_BASED_ENCRYPTION_OIDS: [&[u8]; 2] =
    [b"\x2a\x86\x48\x86\xf7\x0d\x01\x05", b"\x2a\x86\x48\x86\xf7\x0d\x01\x0c"];

/// The content that a file should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpectedContent {
    Certificate,
    PrivateKey,
    RevocationList,
}

/// The bytes of a file without a byte order mark. They may contain a private key.
pub(super) struct PemFile {
    file: PathBuf,
    bytes: SecretSlice<u8>,
}

/// The content of a file: a format other than PEM, or a section of a PEM file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FoundContent {
    Certificate,
    PrivateKey,
    EncryptedKey,
    RevocationList,
    Request,
    PublicKey,
    OpensslCertificate,
    OpensshKey,
    Pkcs7,
    Pkcs12,
    JavaKeyStore,
}

impl ExpectedContent {
    fn holds(self, kind: SectionKind) -> bool {
        match self {
            Self::Certificate => kind == SectionKind::Certificate,
            Self::PrivateKey => {
                matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
            }
            Self::RevocationList => kind == SectionKind::Crl,
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private key",
            Self::RevocationList => "revocation list",
        }
    }
}

impl PemFile {
    pub(super) fn read(file: &Path) -> Result<Self, FileError> {
        let failed = |message: String| FileError { file: file.to_owned(), message };
        let unreadable = |error: std::io::Error| match error.kind() {
            ErrorKind::NotFound => failed("there is no such file".to_owned()),
            ErrorKind::IsADirectory => failed("it is a directory; name a file in it".to_owned()),
            kind => failed(format!("it cannot be read: {kind}")),
        };
        let mut bytes = Vec::new();
        let opened = File::open(file).map_err(unreadable)?;
        let read = opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes);
        let mut pem_file = Self { file: file.to_owned(), bytes: SecretSlice::from(bytes) };
        if read.map_err(unreadable)? as u64 > MAX_FILE_BYTES {
            return Err(failed("it is too large".to_owned()));
        }
        if let Some(rest) = pem_file.bytes().strip_prefix(UTF8_BOM) {
            pem_file.bytes = SecretSlice::from(rest.to_vec());
        }
        Ok(pem_file)
    }

    /// The expected sections, at least one.
    pub(super) fn sections(&self, expected: ExpectedContent) -> Result<Vec<(SectionKind, Vec<u8>)>, FileError> {
        let mut sections = Vec::new();
        // Before decoding: the section of an encrypted key contains lines that are not base64.
        if expected == ExpectedContent::PrivateKey && self.is_encrypted() {
            return Err(self.wrong_content(expected, FoundContent::EncryptedKey));
        }
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(self.bytes()) {
            match section {
                Ok((kind, der)) if expected.holds(kind) => sections.push((kind, der)),
                Ok(_) => {}
                Err(error) => return Err(self.malformed(expected, sections.len() + 1, &error)),
            }
        }
        if sections.is_empty() { Err(self.missing_content(expected)) } else { Ok(sections) }
    }

    fn bytes(&self) -> &[u8] {
        self.bytes.expose_secret()
    }

    fn error(&self, message: String) -> FileError {
        FileError { file: self.file.clone(), message }
    }

    /// A message without the library's text, which would quote the line.
    fn malformed(&self, expected: ExpectedContent, number: usize, error: &pem::Error) -> FileError {
        let what = match error {
            pem::Error::MissingSectionEnd { .. } => "has no END line: the file is cut off",
            pem::Error::IllegalSectionStart { .. } => "has a BEGIN line that does not end in five hyphens",
            pem::Error::Base64Decode(_) => "is not base64",
            _ => "is not PEM",
        };
        self.error(format!("{} {number}, or a section near it, {what}; copy the file again", expected.description()))
    }

    fn missing_content(&self, expected: ExpectedContent) -> FileError {
        let bytes = self.bytes();
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return self.error("it is empty".to_owned());
        }
        if UTF16_BOMS.iter().any(|mark| bytes.starts_with(mark)) {
            return self.error("it is text in UTF-16; save it as UTF-8".to_owned());
        }
        let found = self.labels().find_map(content_of_label).or_else(|| content_of_der(bytes));
        match found {
            Some(found) => self.wrong_content(expected, found),
            None => self.error(format!(
                "it has no {}; expected PEM, text with a line that begins with -----BEGIN",
                expected.description()
            )),
        }
    }

    /// What the file contains instead, and what to do.
    fn wrong_content(&self, expected: ExpectedContent, found: FoundContent) -> FileError {
        let (file, word) = (self.file.display(), expected.description());
        let is_pem = self.labels().next().is_some();
        let message = match (found, expected) {
            (FoundContent::EncryptedKey, ExpectedContent::PrivateKey) => {
                let form = if is_pem { "" } else { " -inform der" };
                // The path may be long, so the reason comes first.
                format!(
                    "the gateway asks for no passphrase, and the private key is encrypted; write it without one: `openssl \
                     pkey{form} -in {file} -out {file}.plain`"
                )
            }
            (FoundContent::Certificate, ExpectedContent::Certificate) => {
                format!("a certificate in DER, not PEM; run `openssl x509 -inform der -in {file} -out {file}.pem`")
            }
            (FoundContent::PrivateKey, ExpectedContent::PrivateKey) if is_pem => {
                "a private key of a kind that TLS does not use; make one by `openssl genpkey`".to_owned()
            }
            (FoundContent::PrivateKey, ExpectedContent::PrivateKey) => {
                format!("a private key in DER, not PEM; run `openssl pkey -inform der -in {file} -out {file}.pem`")
            }
            (FoundContent::RevocationList, ExpectedContent::RevocationList) => {
                format!("a revocation list in DER, not PEM; run `openssl crl -inform der -in {file} -out {file}.pem`")
            }
            (FoundContent::OpensslCertificate, ExpectedContent::Certificate) => {
                format!("a certificate in OpenSSL's own form; run `openssl x509 -in {file} -out {file}.pem`")
            }
            (FoundContent::Pkcs12, ExpectedContent::PrivateKey) => {
                format!("a PKCS#12 container, not PEM; run `openssl pkcs12 -in {file} -nocerts -noenc -out {file}.key`")
            }
            (FoundContent::Pkcs12, _) => {
                format!("a PKCS#12 container, not PEM; run `openssl pkcs12 -in {file} -nokeys -out {file}.pem`")
            }
            (FoundContent::Pkcs7, ExpectedContent::Certificate) => {
                let form = if is_pem { "" } else { " -inform der" };
                format!("a PKCS#7 container; run `openssl pkcs7{form} -in {file} -print_certs -out {file}.pem`")
            }
            (FoundContent::JavaKeyStore, _) => format!(
                "a Java key store, not PEM; run `keytool -importkeystore -srckeystore {file} -destkeystore {file}.p12 \
                 -deststoretype pkcs12`, then `openssl pkcs12`"
            ),
            (FoundContent::OpensshKey, ExpectedContent::PrivateKey) => {
                "a private key in OpenSSH's form; TLS keys are made by `openssl genpkey`".to_owned()
            }
            (FoundContent::Request, ExpectedContent::Certificate) => {
                "it has no certificate but a request for one, which an authority has to sign first".to_owned()
            }
            (FoundContent::Certificate, ExpectedContent::PrivateKey) => {
                "it has no private key but a certificate; are certificate and private_key exchanged?".to_owned()
            }
            (FoundContent::PrivateKey | FoundContent::EncryptedKey, ExpectedContent::Certificate) => {
                "it has no certificate but a private key; is the file another key's, e.g. exchanged with private_key?"
                    .to_owned()
            }
            (found, _) => format!("it has no {word} but {}; name another file", found.description()),
        };
        self.error(message)
    }

    /// The label of each BEGIN line.
    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.bytes().split(|byte| matches!(byte, b'\n' | b'\r'));
        lines.filter_map(|line| {
            let label = line.strip_prefix(b"-----BEGIN ")?.trim_ascii_end();
            label.strip_suffix(b"-----")
        })
    }

    /// Whether the file's only key needs a passphrase.
    fn is_encrypted(&self) -> bool {
        // RFC 1421, 4.6.1.1: OpenSSL's form before PKCS#8 has the label of an unencrypted key.
        let is_mark = |line: &[u8]| line.starts_with(b"Proc-Type:") && line.ends_with(b"ENCRYPTED");
        let mut lines = self.bytes().split(|byte| matches!(byte, b'\n' | b'\r'));
        let is_old_form = lines.any(|line| is_mark(line.trim_ascii_end()));
        let holds = |label: &[u8]| self.labels().any(|own| own == label);
        let has_other_form = holds(b"RSA PRIVATE KEY") || holds(b"EC PRIVATE KEY");
        let is_new_form = holds(b"ENCRYPTED PRIVATE KEY");
        !holds(b"PRIVATE KEY") && (is_old_form || (is_new_form && !has_other_form))
    }
}

impl FoundContent {
    fn description(self) -> &'static str {
        match self {
            Self::Certificate | Self::OpensslCertificate => "a certificate",
            Self::PrivateKey | Self::OpensshKey => "a private key",
            Self::EncryptedKey => "an encrypted private key",
            Self::RevocationList => "a revocation list",
            Self::Request => "a request for a certificate",
            Self::PublicKey => "a public key",
            Self::Pkcs7 => "a PKCS#7 container",
            Self::Pkcs12 => "a PKCS#12 container",
            Self::JavaKeyStore => "a Java key store",
        }
    }
}

/// The content of a PEM section, by its label (RFC 7468 and OpenSSL's labels).
fn content_of_label(label: &[u8]) -> Option<FoundContent> {
    match label {
        b"CERTIFICATE" => Some(FoundContent::Certificate),
        b"TRUSTED CERTIFICATE" | b"X509 CERTIFICATE" => Some(FoundContent::OpensslCertificate),
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Some(FoundContent::Request),
        b"X509 CRL" => Some(FoundContent::RevocationList),
        b"PUBLIC KEY" | b"RSA PUBLIC KEY" => Some(FoundContent::PublicKey),
        b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" | b"DSA PRIVATE KEY" => Some(FoundContent::PrivateKey),
        b"ENCRYPTED PRIVATE KEY" => Some(FoundContent::EncryptedKey),
        b"OPENSSH PRIVATE KEY" => Some(FoundContent::OpensshKey),
        b"PKCS7" | b"CMS" => Some(FoundContent::Pkcs7),
        _ => None,
    }
}

/// The content of a binary file.
fn content_of_der(bytes: &[u8]) -> Option<FoundContent> {
    if JAVA_KEYSTORE_MAGIC.iter().any(|mark| bytes.starts_with(mark)) {
        return Some(FoundContent::JavaKeyStore);
    }
    let content = der_sequence(bytes)?;
    if content.starts_with(b"\x02\x01\x03") {
        // RFC 7292, 4: version 3. No other format here starts with it.
        return Some(FoundContent::Pkcs12);
    }
    if content.starts_with(PKCS7_SIGNED_DATA_OID) {
        return Some(FoundContent::Pkcs7);
    }
    let algorithm = der_sequence(content).and_then(|inside| inside.strip_prefix(b"\x06")?.get(1..));
    if algorithm.is_some_and(|oid| PASSWORD_BASED_ENCRYPTION_OIDS.iter().any(|passphrase| oid.starts_with(passphrase)))
    {
        return Some(FoundContent::EncryptedKey);
    }
    if Certificate::from_der(bytes).is_ok() {
        Some(FoundContent::Certificate)
    } else if CertificateList::<x509_cert::certificate::Rfc5280>::from_der(bytes).is_ok() {
        Some(FoundContent::RevocationList)
    } else {
        PrivateKeyDer::try_from(bytes).is_ok().then_some(FoundContent::PrivateKey)
    }
}

/// The content of a SEQUENCE in DER or BER, up to the end of the bytes.
fn der_sequence(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(b"\x30")?;
    let (length, rest) = rest.split_first()?;
    // The short form, the indefinite form, or a number of length bytes.
    let further = if *length <= 0x80 { 0 } else { usize::from(length & 0x7f) };
    rest.get(further..)
}
