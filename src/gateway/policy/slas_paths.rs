//! The paths of SLAS. The gateway serves only listed operations there, even if `policy.unknown_operations` allows others.
//!
//! Proxies with a list of blocked SLAS operations have forwarded operations that were missing from the list.

use super::operation::OperationKind;
use crate::gateway::path::RequestPath;

/// Whether a path is below `/shopper/auth/`, in any case of its letters.
#[must_use]
pub fn is_slas_path(path: &RequestPath<'_>) -> bool {
    let mut segments = path.segments().iter().map(|segment| segment.decoded());
    let mut next_is = |name: &str| segments.next().is_some_and(|segment| segment.eq_ignore_ascii_case(name));
    next_is("shopper") && next_is("auth")
}

/// Whether an operation of another API matches a path that belongs to SLAS: below SLAS's base path, or below a storefront's
/// prefix. A merchant's route with parameters must not open what the table of SLAS's operations leaves out.
#[must_use]
pub fn is_misplaced(kind: OperationKind, path: &RequestPath<'_>, is_below_prefix: bool) -> bool {
    kind != OperationKind::Slas && (is_below_prefix || is_slas_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slas_path_with_an_operation_of_another_api_is_misplaced() {
        let is_misplaced = |kind, path, prefixed| is_misplaced(kind, &RequestPath::parse(path).unwrap(), prefixed);
        let unlisted = "/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/unlisted";
        for path in [unlisted, "/Shopper/AUTH/v1", "/shopper/auth"] {
            assert!(is_misplaced(OperationKind::Merchant, path, false), "{path}");
            assert!(!is_misplaced(OperationKind::Slas, path, false), "{path}");
        }
        assert!(!is_misplaced(OperationKind::Merchant, "/custom/loyalty/v1", false));
        assert!(is_misplaced(OperationKind::Merchant, "/custom/loyalty/v1", true));
    }

    #[test]
    fn slas_path_is_recognized_in_any_case() {
        let is = |path| is_slas_path(&RequestPath::parse(path).unwrap());
        assert!(is("/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/anything"));
        assert!(is("/shopper/auth"));
        assert!(is("/Shopper/AUTH/v1"));
        assert!(!is("/shopper/auth-admin/v1/tenants/zzrf_001"));
        assert!(!is("/customer/shopper/auth"));
    }
}
