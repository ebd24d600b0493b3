//! The `isb` claim: SLAS's list of facts about the shopper, as `key:value` separated by `::`.
//!
//! Owns the grammar and nothing else. Keys that the gateway does not use are passed over; a key that
//! stands twice makes the whole claim unreadable, because it would have two readings. Marks count only
//! behind a customer id: what a shopper chose himself (`upn`, `uidn`) stands before it, so a login
//! id written like a mark gives no mark, and one written like a customer id makes a key stand twice.

use std::str::FromStr;

use super::shopper::Marks;
use crate::types::{CustomerId, SiteId};

/// Longest `isb`, characters (SLAS's own limit).
pub const MAX_ISB_CHARACTERS: usize = 256;

/// What the gateway uses of `isb`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Isb {
    /// `rcid`: the registered customer id.
    pub registered_customer: Option<CustomerId>,
    /// `gcid`: the guest customer id.
    pub guest_customer: Option<CustomerId>,
    /// `chid`: the site.
    pub site: Option<SiteId>,
    /// `tsob`, `taob`.
    pub marks: Marks,
    /// `agent`: who acts for the shopper; counts where a mark would.
    pub agent: Option<Box<str>>,
}

/// The claim is not such a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableIsb {
    /// Longer than [`MAX_ISB_CHARACTERS`].
    #[error("isb is too long")]
    TooLong,
    /// An item is not `key:value`.
    #[error("isb has an item that is not key:value")]
    NotAPair,
    /// A key stands twice.
    #[error("isb has a key twice")]
    Repeated,
    /// A customer id or site is not one.
    #[error("isb has an invalid identifier")]
    InvalidIdentifier,
}

impl FromStr for Isb {
    type Err = UnreadableIsb;

    fn from_str(text: &str) -> Result<Self, UnreadableIsb> {
        if text.chars().count() > MAX_ISB_CHARACTERS {
            return Err(UnreadableIsb::TooLong);
        }
        let mut isb = Self::default();
        let mut seen: Vec<&str> = Vec::with_capacity(8);
        let mut rest = Some(text);
        while let Some(pairs) = rest {
            // Key first: the colon behind it also begins the separator when the value is empty.
            let (key, values) = pairs.split_once(':').ok_or(UnreadableIsb::NotAPair)?;
            let (value, others) = values.split_once("::").map_or((values, None), |(value, rest)| (value, Some(rest)));
            if key.is_empty() || value.starts_with(':') {
                return Err(UnreadableIsb::NotAPair);
            }
            rest = others;
            if seen.contains(&key) {
                return Err(UnreadableIsb::Repeated);
            }
            seen.push(key);
            match key {
                "rcid" => isb.registered_customer = Some(name(value)?),
                "gcid" => isb.guest_customer = Some(name(value)?),
                // SLAS leaves it blank for a client without a channel: the token is of no site, and a shopper's all the same.
                "chid" if value.trim().is_empty() => {}
                "chid" => isb.site = Some(name(value)?),
                "tsob" => isb.marks.tsob = isb.names_a_customer(),
                "taob" => isb.marks.taob = isb.names_a_customer(),
                "agent" => isb.agent = isb.names_a_customer().then(|| value.into()),
                _ => {}
            }
        }
        Ok(isb)
    }
}

impl Isb {
    fn names_a_customer(&self) -> bool {
        self.registered_customer.is_some() || self.guest_customer.is_some()
    }
}

fn name<Name: FromStr>(value: &str) -> Result<Name, UnreadableIsb> {
    value.parse().map_err(|_| UnreadableIsb::InvalidIdentifier)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_guests() {
        let isb: Isb = "uido:slas::upn:Guest::uidn:Guest User::gcid:abKrkZlrg1::chid:RefArch".parse().unwrap();
        assert_eq!(isb.guest_customer.unwrap().as_str(), "abKrkZlrg1");
        assert_eq!(isb.registered_customer, None);
        assert_eq!(isb.site.unwrap().as_str(), "RefArch");
        assert_eq!(isb.marks, Marks::default());
    }

    #[test]
    fn blank_site_is_no_site() {
        for chid in ["chid:", "chid: "] {
            let isb: Isb = format!("uido:slas::upn:Guest::gcid:abKrkZlrg1::{chid}").parse().unwrap();
            assert_eq!((isb.site, isb.guest_customer.unwrap().as_str()), (None, "abKrkZlrg1"));
        }
    }

    #[test]
    fn a_registered_shoppers_on_behalf() {
        let text =
            "uido:ecom::upn:ada@example.com::uidn:Ada%3A L::gcid:g1::rcid:r1::tsob:ts_ext_on_behalf_of::chid:RefArch";
        let isb: Isb = text.parse().unwrap();
        assert_eq!(isb.registered_customer.unwrap().as_str(), "r1");
        assert!(isb.marks.tsob && !isb.marks.taob);
    }

    #[test]
    fn a_value_cannot_pose_as_a_mark() {
        let isb: Isb = "uido:ecom::upn:tsob:ts_ext_on_behalf_of::chid:RefArch".parse().unwrap();
        assert!(!isb.marks.tsob);
    }

    #[test]
    fn a_login_id_cannot_pose_as_a_mark() {
        let posing = "uido:ecom::upn:x::tsob:ts_ext_on_behalf_of::uidn:X::gcid:g1::rcid:r1::chid:RefArch";
        assert!(!posing.parse::<Isb>().unwrap().marks.tsob);
        let worse = "uido:ecom::upn:x::gcid:g0::tsob:ts_ext_on_behalf_of::uidn:X::gcid:g1::rcid:r1::chid:RefArch";
        assert_eq!(worse.parse::<Isb>(), Err(UnreadableIsb::Repeated));
    }

    #[test]
    fn a_value_may_be_empty() {
        let isb: Isb = "uido:ecom::upn:::uidn:::gcid:g1::chid:RefArch".parse().unwrap();
        assert_eq!(isb.guest_customer.unwrap().as_str(), "g1");
        assert_eq!("uido::gcid:g1".parse::<Isb>(), Err(UnreadableIsb::NotAPair));
    }

    #[test]
    fn two_readings_are_none() {
        assert_eq!("chid:RefArch::chid:Other".parse::<Isb>(), Err(UnreadableIsb::Repeated));
        assert_eq!("upn".parse::<Isb>(), Err(UnreadableIsb::NotAPair));
        assert_eq!("".parse::<Isb>(), Err(UnreadableIsb::NotAPair));
        assert_eq!("chid:a/b".parse::<Isb>(), Err(UnreadableIsb::InvalidIdentifier));
        assert_eq!("u:".repeat(200).parse::<Isb>(), Err(UnreadableIsb::TooLong));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,300}") {
            let _ = text.parse::<Isb>();
        }

        #[test]
        fn what_is_written_is_read(
            gcid in "[A-Za-z0-9]{1,20}", site in "[A-Za-z0-9_-]{1,20}", upn in "[a-z@.]{0,30}", tsob: bool, taob: bool,
        ) {
            let mut text = format!("uido:ecom::upn:{upn}::gcid:{gcid}");
            if tsob { text.push_str("::tsob:ts_ext_on_behalf_of"); }
            if taob { text.push_str("::taob:x"); }
            text.push_str(&format!("::chid:{site}"));
            let isb: Isb = text.parse().unwrap();
            prop_assert_eq!(isb.guest_customer, Some(gcid.parse().unwrap()));
            prop_assert_eq!(isb.site, Some(site.parse().unwrap()));
            prop_assert_eq!(isb.marks, Marks { tsob, taob });
        }
    }
}
