//! The state of the shop: customers, product lists, baskets, orders.
//!
//! Documents have the format of the APIs. Nothing here depends on HTTP.

mod baskets;
mod customers;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

pub(crate) use baskets::{Basket, shipping_method, shipping_methods};
pub(crate) use customers::Customer;

use crate::seed::Seed;

/// A wish list or another list of products, of a guest or a registered customer.
pub(crate) struct ProductList {
    pub(crate) organization: String,
    pub(crate) owner: String,
    pub(crate) document: Map<String, Value>,
}

/// A submitted order.
pub(crate) struct Order {
    pub(crate) organization: String,
    pub(crate) owner: String,
    pub(crate) document: Map<String, Value>,
}

/// The whole shop, of all organizations.
#[derive(Default)]
pub(crate) struct Shop {
    customers: BTreeMap<String, Customer>,
    pub(crate) lists: Vec<ProductList>,
    pub(crate) baskets: BTreeMap<String, Basket>,
    /// Shopper contexts by organization, session and site.
    pub(crate) contexts: BTreeMap<(String, String, String), Map<String, Value>>,
    pub(crate) orders: BTreeMap<(String, String), Order>,
    last_number: u64,
}

impl Shop {
    /// The shop with the seeded shoppers in every organization.
    pub(crate) fn open(seed: &Seed) -> Self {
        let mut shop = Self::default();
        for organization in &seed.organizations {
            for shopper in &seed.shoppers {
                let id = shop.enlist(&organization.id, "ecom", &shopper.login, &shopper.login);
                if let Some(customer) = shop.customers.get_mut(&id) {
                    customer.password = Some(shopper.password.clone());
                    customer.set_name(&shopper.first_name, &shopper.last_name);
                    customer.addresses.clone_from(&shopper.addresses);
                }
            }
        }
        shop
    }

    /// Eight digits for customers and orders.
    pub(crate) fn next_number(&mut self) -> String {
        self.last_number += 1;
        format!("{:08}", self.last_number)
    }
}
