//! Paths of SLAS itself, which go to SLAS as they came.
//!
//! Owns what counts as such a path. The operations that are let through are those of the policy table;
//! everything else below SLAS's base is refused, whatever the policy says of unknown operations:
//! a deny-list here has been the hole in more than one proxy.

use super::path::RequestPath;

/// Whether a path lies below `/shopper/auth/`, in any case of its letters, where only listed operations
/// are let through.
#[must_use]
pub fn is_slas_path(path: &RequestPath<'_>) -> bool {
    let mut segments = path.segments().iter().map(|segment| segment.decoded());
    let mut next_is = |name: &str| segments.next().is_some_and(|segment| segment.eq_ignore_ascii_case(name));
    next_is("shopper") && next_is("auth")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_slas_is_slas() {
        let is = |path| is_slas_path(&RequestPath::parse(path).unwrap());
        assert!(is("/shopper/auth/v1/organizations/f_ecom_zzrf_001/oauth2/anything"));
        assert!(is("/shopper/auth"));
        assert!(is("/Shopper/AUTH/v1"));
        assert!(!is("/shopper/auth-admin/v1/tenants/zzrf_001"));
        assert!(!is("/customer/shopper/auth"));
    }
}
