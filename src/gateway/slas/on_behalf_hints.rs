//! Finds requests that SLAS could read as requests for a token on behalf of a shopper.
//!
//! `hint`, `login_id` and `idp_origin` turn a client's request for a token into one for any shopper's token
//! (`/trusted-system/token`). The API description has these fields at few other operations. SLAS might read them at others too, so
//! the gateway adds no client's credential to such a request.
//!
//! The check assumes a reader more lenient than the gateway. It compares names without case, blanks and index brackets, keeps
//! escapes that do not decode, and checks each occurrence of a field.

use percent_encoding::percent_decode_str;

use crate::gateway::policy::Operation;

/// Which of the three fields an operation's API description has.
#[derive(Debug, Clone, Copy)]
struct PublishedFields {
    hint: Hint,
    login_id: bool,
    idp_origin: bool,
}

/// The values of `hint` at an operation.
#[derive(Debug, Clone, Copy)]
enum Hint {
    /// The operation has no such field.
    Absent,
    /// This value only.
    Only(&'static str),
    /// The name of an identity provider, which merchants choose.
    Provider,
}

impl PublishedFields {
    fn of(operation: &Operation) -> Self {
        let (hint, login_id, idp_origin) = match operation.id.as_str() {
            "getPasswordLessAccessToken" => (Hint::Only("pwdless_login"), true, false),
            "getPasswordResetToken" | "resetPassword" => (Hint::Only("cross_device"), false, false),
            "getSessionBridgeAccessToken" => (Hint::Absent, true, false),
            // SLAS requires the agent's own token of Account Manager too.
            "getTrustedAgentAccessToken" => (Hint::Absent, true, true),
            "authorizeCustomer" => (Hint::Provider, false, false),
            _ => (Hint::Absent, false, false),
        };
        Self { hint, login_id, idp_origin }
    }

    fn allows(self, name: &str, value: &str) -> bool {
        match name {
            "hint" => match self.hint {
                Hint::Absent => false,
                Hint::Only(only) => value == only,
                Hint::Provider => !value.to_lowercase().contains("behalf"),
            },
            "loginid" => self.login_id,
            "idporigin" => self.idp_origin,
            _ => true,
        }
    }
}

/// Whether SLAS could read a request for a token on behalf of a shopper from its query or form.
pub(super) fn could_request_on_behalf(operation: &Operation, query: Option<&str>, form: Option<&[u8]>) -> bool {
    let published = PublishedFields::of(operation);
    let form = form.map(String::from_utf8_lossy);
    let texts = query.into_iter().chain(form.as_deref());
    let mut pairs = texts.flat_map(|text| text.split(['&', ';']));
    pairs.any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        !published.allows(&lenient_name(name), decoded(value).trim())
    })
}

/// Returns a field's name as the most lenient reader would: its letters before an index.
fn lenient_name(name: &str) -> String {
    let decoded = decoded(name);
    let letters = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect()
    };
    letters(decoded.split('[').next().unwrap_or_default())
}

fn decoded(text: &str) -> String {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::policy::Operations;

    fn requests_on_behalf(id: &str, query: Option<&str>, form: &str) -> bool {
        let operations = Operations::published().unwrap();
        let operation = operations.iter().find(|operation| operation.api == "auth" && operation.id == id).unwrap();
        could_request_on_behalf(operation, query, Some(form.as_bytes()))
    }

    #[test]
    fn published_field_requests_nothing_on_behalf() {
        for (id, form) in [
            ("getAccessToken", "grant_type=client_credentials&channel_id=RefArch&usid=x&hints=1&xlogin_id=1"),
            ("getPasswordLessAccessToken", "hint=pwdless_login&login_id=a%40b.c"),
            ("getPasswordResetToken", "hint=cross_device&idp_name=okta"),
            ("resetPassword", "hint=cross_device&user_id=a"),
            ("getSessionBridgeAccessToken", "login_id=guest"),
            ("getTrustedAgentAccessToken", "login_id=a&idp_origin=ecom"),
            ("authorizeCustomer", "hint=google"),
            ("authenticateCustomer", "client_id=a"),
        ] {
            assert!(!requests_on_behalf(id, None, form), "{id} {form}");
        }
        assert!(!requests_on_behalf("authorizeCustomer", Some("hint=guest&client_id=a"), ""));
    }

    #[test]
    fn on_behalf_field_is_found_in_any_spelling() {
        for form in [
            "hint=ts_ext_on_behalf_of",
            "a=1&hint=ts_ext_on_behalf_of&login_id=x",
            "hint=guest",
            "hint",
            "hint=",
            "%68int=x",
            "hin%74=x",
            "HINT=x",
            "hint+=x",
            "%20hint=x",
            "hint%5B%5D=x",
            "hint[0]=x",
            "a=1;hint=x",
            "hint%zz=x&hint=x",
            "login_id=x",
            "login%5Fid=x",
            "login-id=x",
            "Login_Id=x",
            "idp_origin=ecom",
            "idpOrigin=ecom",
            "loginId=x",
            "login.id=x",
            "login_id%00=x",
            "%00login_id=x",
            "%EF%BB%BFhint=x",
            "hint%E2%80%8B=x",
            "!login_id=x",
            "_login_id=x",
        ] {
            assert!(requests_on_behalf("getAccessToken", None, form), "{form}");
            assert!(requests_on_behalf("getAccessToken", Some(form), ""), "query {form}");
        }
        for form in [
            "hint=pwdless_login&hint=ts_ext_on_behalf_of",
            "hint=ts_ext_on_behalf_of",
            "hint=pwdless_login&idp_origin=ecom",
        ] {
            assert!(requests_on_behalf("getPasswordLessAccessToken", None, form), "{form}");
        }
        assert!(requests_on_behalf("authorizeCustomer", Some("hint=TS_EXT_ON_BEHALF_OF"), ""));
        assert!(requests_on_behalf(
            "getTrustedAgentAccessToken",
            None,
            "login_id=a&idp_origin=b&hint=ts_ext_on_behalf_of"
        ));
        assert!(could_request_on_behalf(
            Operations::published().unwrap().iter().find(|operation| operation.id == "getAccessToken").unwrap(),
            None,
            Some(b"\xff=1&hint=x")
        ));
    }
}
