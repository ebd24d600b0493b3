//! The `isb` claim: a list of facts about the shopper, as `key:value` pairs separated by `::`.
//!
//! Unused keys are ignored. A duplicate key makes the claim invalid, because it would have two readings. A delegation flag counts
//! only after a customer id. SLAS writes the values that a shopper chose (`upn`, `uidn`) before the customer id. So a login id
//! that looks like a flag sets no flag, and a login id that looks like a customer id makes a duplicate key.

use std::str::FromStr;

use super::shopper::Delegation;
use crate::types::{CustomerId, SiteId};

/// Maximum characters of `isb`, as SLAS limits it.
pub const MAX_ISB_CHARACTERS: usize = 256;

/// The pairs of `isb` that the gateway uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isb {
    /// `rcid`: the registered customer id.
    pub registered_customer: Option<CustomerId>,
    /// `gcid`: the guest customer id.
    pub guest_customer: Option<CustomerId>,
    /// `chid`: the site.
    pub site: Option<SiteId>,
    /// `tsob`, `taob`: the delegation flags.
    pub delegation: Delegation,
    /// `agent`: the agent that acts for the shopper. Counts where a flag would count.
    pub agent: Option<Box<str>>,
}

/// An error of the `isb` claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IsbError {
    /// Longer than [`MAX_ISB_CHARACTERS`].
    #[error("isb is longer than {MAX_ISB_CHARACTERS} characters")]
    TooLong,
    /// An item is not `key:value`.
    #[error("isb has an item that is not key:value")]
    NotAPair,
    /// A key occurs twice.
    #[error("isb has a duplicate key")]
    DuplicateKey,
    /// A customer id or site is invalid.
    #[error("isb has an invalid identifier")]
    InvalidId,
}

impl FromStr for Isb {
    type Err = IsbError;

    fn from_str(text: &str) -> Result<Self, IsbError> {
        if text.chars().count() > MAX_ISB_CHARACTERS {
            return Err(IsbError::TooLong);
        }
        let mut isb = Self::default();
        let mut seen: Vec<&str> = Vec::with_capacity(8);
        let mut rest = Some(text);
        while let Some(pairs) = rest {
            // The key is split off first: with an empty value its colon is also the first of the separator.
            let (key, values) = pairs.split_once(':').ok_or(IsbError::NotAPair)?;
            let (value, others) = values.split_once("::").map_or((values, None), |(value, rest)| (value, Some(rest)));
            if key.is_empty() || value.starts_with(':') {
                return Err(IsbError::NotAPair);
            }
            rest = others;
            if seen.contains(&key) {
                return Err(IsbError::DuplicateKey);
            }
            seen.push(key);
            match key {
                "rcid" => isb.registered_customer = Some(parse_id(value)?),
                "gcid" => isb.guest_customer = Some(parse_id(value)?),
                // SLAS leaves the site blank for a client without a channel. The token is valid, without a site.
                "chid" if value.trim().is_empty() => {}
                "chid" => isb.site = Some(parse_id(value)?),
                "tsob" => isb.delegation.tsob = isb.has_customer(),
                "taob" => isb.delegation.taob = isb.has_customer(),
                "agent" => isb.agent = isb.has_customer().then(|| value.into()),
                _ => {}
            }
        }
        Ok(isb)
    }
}

impl Isb {
    fn has_customer(&self) -> bool {
        self.registered_customer.is_some() || self.guest_customer.is_some()
    }
}

fn parse_id<Id: FromStr>(value: &str) -> Result<Id, IsbError> {
    value.parse().map_err(|_| IsbError::InvalidId)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn guest_isb_has_its_customer_and_site() {
        let isb: Isb = "uido:slas::upn:Guest::uidn:Guest User::gcid:abKrkZlrg1::chid:RefArch".parse().unwrap();
        assert_eq!(isb.guest_customer.unwrap().as_str(), "abKrkZlrg1");
        assert_eq!(isb.registered_customer, None);
        assert_eq!(isb.site.unwrap().as_str(), "RefArch");
        assert_eq!(isb.delegation, Delegation::default());
    }

    #[test]
    fn blank_site_is_no_site() {
        for chid in ["chid:", "chid: "] {
            let isb: Isb = format!("uido:slas::upn:Guest::gcid:abKrkZlrg1::{chid}").parse().unwrap();
            assert_eq!((isb.site, isb.guest_customer.unwrap().as_str()), (None, "abKrkZlrg1"));
        }
    }

    #[test]
    fn registered_isb_on_behalf_has_the_delegation_flag() {
        let text =
            "uido:ecom::upn:ada@example.com::uidn:Ada%3A L::gcid:g1::rcid:r1::tsob:ts_ext_on_behalf_of::chid:RefArch";
        let isb: Isb = text.parse().unwrap();
        assert_eq!(isb.registered_customer.unwrap().as_str(), "r1");
        assert!(isb.delegation.tsob && !isb.delegation.taob);
    }

    #[test]
    fn value_that_looks_like_a_flag_sets_no_flag() {
        let isb: Isb = "uido:ecom::upn:tsob:ts_ext_on_behalf_of::chid:RefArch".parse().unwrap();
        assert!(!isb.delegation.tsob);
    }

    #[test]
    fn login_id_that_looks_like_a_flag_sets_no_flag() {
        let posing = "uido:ecom::upn:x::tsob:ts_ext_on_behalf_of::uidn:X::gcid:g1::rcid:r1::chid:RefArch";
        assert!(!posing.parse::<Isb>().unwrap().delegation.tsob);
        let worse = "uido:ecom::upn:x::gcid:g0::tsob:ts_ext_on_behalf_of::uidn:X::gcid:g1::rcid:r1::chid:RefArch";
        assert_eq!(worse.parse::<Isb>(), Err(IsbError::DuplicateKey));
    }

    #[test]
    fn empty_value_is_accepted() {
        let isb: Isb = "uido:ecom::upn:::uidn:::gcid:g1::chid:RefArch".parse().unwrap();
        assert_eq!(isb.guest_customer.unwrap().as_str(), "g1");
        assert_eq!("uido::gcid:g1".parse::<Isb>(), Err(IsbError::NotAPair));
    }

    #[test]
    fn ambiguous_isb_is_rejected() {
        assert_eq!("chid:RefArch::chid:Other".parse::<Isb>(), Err(IsbError::DuplicateKey));
        assert_eq!("upn".parse::<Isb>(), Err(IsbError::NotAPair));
        assert_eq!("".parse::<Isb>(), Err(IsbError::NotAPair));
        assert_eq!("chid:a/b".parse::<Isb>(), Err(IsbError::InvalidId));
        assert_eq!("u:".repeat(200).parse::<Isb>(), Err(IsbError::TooLong));
    }

    proptest! {
        #[test]
        fn isb_of_arbitrary_text_causes_no_panic(text in ".{0,300}") {
            let _ = text.parse::<Isb>();
        }

        #[test]
        fn generated_isb_is_parsed(
            gcid in "[A-Za-z0-9]{1,20}", site in "[A-Za-z0-9_-]{1,20}", upn in "[a-z@.]{0,30}", tsob: bool, taob: bool,
        ) {
            let mut text = format!("uido:ecom::upn:{upn}::gcid:{gcid}");
            if tsob { text.push_str("::tsob:ts_ext_on_behalf_of"); }
            if taob { text.push_str("::taob:x"); }
            text.push_str(&format!("::chid:{site}"));
            let isb: Isb = text.parse().unwrap();
            prop_assert_eq!(isb.guest_customer, Some(gcid.parse().unwrap()));
            prop_assert_eq!(isb.site, Some(site.parse().unwrap()));
            prop_assert_eq!(isb.delegation, Delegation { tsob, taob });
        }
    }
}
