//! The names in a client certificate: its subject (RFC 4514) and its alternative names (RFC 5280, 4.2.1.6).
//!
//! Owns when a name of the configuration is a name of a certificate: subjects are compared part by part, so that
//! escapes and the case of keywords do not matter and order, kind and value do. Refuses to know whether a certificate is genuine: the
//! listener has verified it under `server.tls.client_ca`, or there is none.

use std::str::FromStr;

use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
    name::RdnSequence,
};

use crate::host::without_root_dot;

/// The names of a certificate that a client has proved to be its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// In the form of RFC 4514, as one spelling.
    subject: String,
    /// `DNS:…`, `URI:…`, `email:…`.
    alternatives: Vec<String>,
}

/// A name that a trusted system's certificate must bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateName {
    /// The whole subject.
    LoginAttempt(String),
    /// One of the alternative names.
    Alternative(String),
}

/// A text that is no such name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificateName {
    /// Not a subject.
    #[error("not a subject in the form of RFC 4514; expected e.g. CN=oms.example.com,O=Example")]
    LoginAttempt,
    /// Not an alternative name.
    #[error(
        "not an alternative name; expected e.g. DNS:oms.example.com, URI:spiffe://example.com/oms or email:oms@example.com"
    )]
    Alternative,
}

impl PeerCertificate {
    /// Reads the names of a certificate in DER; `None` if it is none, or has no name at all.
    #[must_use]
    pub fn read(der: &[u8]) -> Option<Self> {
        let certificate = Certificate::from_der(der).ok()?;
        let certificate = certificate.tbs_certificate();
        let subject = certificate.subject().to_string();
        let alternatives: Vec<String> = match certificate.get_extension::<SubjectAltName>() {
            Ok(Some((_, names))) => names.0.iter().filter_map(spelled).collect(),
            // One that cannot be read is not guessed at.
            Ok(None) | Err(_) => Vec::new(),
        };
        (!subject.is_empty() || !alternatives.is_empty()).then_some(Self { subject, alternatives })
    }

    /// Its subject in the form of RFC 4514; empty if it has alternative names alone.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Whether it bears a name.
    #[must_use]
    pub fn bears(&self, name: &CertificateName) -> bool {
        match name {
            CertificateName::LoginAttempt(subject) => self.subject == *subject,
            CertificateName::Alternative(name) => self.alternatives.contains(name),
        }
    }
}

impl CertificateName {
    /// A subject, e.g. `CN=oms.example.com,O=Example,C=DE`.
    ///
    /// # Errors
    /// [`InvalidCertificateName::LoginAttempt`].
    pub fn subject(text: &str) -> Result<Self, InvalidCertificateName> {
        let name = RdnSequence::from_str(text).map_err(|_| InvalidCertificateName::LoginAttempt)?;
        let spelled = name.to_string();
        if spelled.is_empty() { Err(InvalidCertificateName::LoginAttempt) } else { Ok(Self::LoginAttempt(spelled)) }
    }

    /// An alternative name: its kind, a colon, and the name.
    ///
    /// # Errors
    /// [`InvalidCertificateName::Alternative`].
    pub fn alternative(text: &str) -> Result<Self, InvalidCertificateName> {
        let invalid = InvalidCertificateName::Alternative;
        let (kind, name) = text.split_once(':').ok_or(invalid)?;
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid);
        }
        match kind {
            "DNS" if without_root_dot(name).is_empty() => Err(invalid),
            "DNS" => Ok(Self::Alternative(dns_name(name))),
            "URI" | "email" => Ok(Self::Alternative(text.to_owned())),
            _ => Err(invalid),
        }
    }
}

/// One spelling of a host's name: case and the root's dot make no other host.
fn dns_name(name: &str) -> String {
    format!("DNS:{}", without_root_dot(name).to_ascii_lowercase())
}

fn spelled(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(dns_name(name.as_str())),
        GeneralName::UniformResourceIdentifier(uri) => Some(format!("URI:{}", uri.as_str())),
        GeneralName::Rfc822Name(address) => Some(format!("email:{}", address.as_str())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_many_spellings_and_one_meaning() {
        let subject = |text| CertificateName::subject(text).unwrap();
        assert_eq!(subject("CN=oms.example.com,O=Example,C=DE"), subject("cn=oms.example.com,o=Example,c=DE"));
        assert_eq!(subject(r"CN=a\,b"), subject(r"CN=a\2Cb"));
        assert_ne!(subject("CN=oms.example.com,O=Example"), subject("O=Example,CN=oms.example.com"));
        assert_ne!(subject("CN=oms.example.com,O=Example"), subject("CN=oms.example.com"));
        assert_ne!(subject("CN=a,OU=b"), subject("CN=a,O=b"));
        for text in ["", "oms", "=x"] {
            assert!(CertificateName::subject(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_alternative_name_has_a_kind() {
        assert_eq!(
            CertificateName::alternative("DNS:OMS.example.com"),
            CertificateName::alternative("DNS:oms.example.com")
        );
        assert_eq!(
            CertificateName::alternative("DNS:oms.example.com."),
            CertificateName::alternative("DNS:oms.example.com")
        );
        assert_ne!(CertificateName::alternative("URI:x:A"), CertificateName::alternative("URI:x:a"));
        for text in ["", "oms.example.com", "DNS:", "DNS:.", "IP:10.0.0.1", "DNS:a b"] {
            assert!(CertificateName::alternative(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(PeerCertificate::read(b""), None);
        assert_eq!(PeerCertificate::read(&[0x30, 0x82, 0xff, 0xff, 0x01]), None);
    }
}
