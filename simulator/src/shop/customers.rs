//! Customers: identity, passwords, and their belongings.

use serde_json::{Map, Value};

use super::Shop;
use crate::clock;
use crate::identifiers;
use crate::seed::IdentityProvider;
use crate::shopper_token::Identity;

/// A registered customer.
#[derive(Clone)]
pub(crate) struct Customer {
    pub(crate) organization: String,
    pub(crate) id: String,
    pub(crate) login: String,
    /// The identity provider: `ecom` for B2C Commerce itself.
    pub(crate) origin: String,
    pub(crate) password: Option<String>,
    pub(crate) profile: Map<String, Value>,
    pub(crate) addresses: Vec<Map<String, Value>>,
    pub(crate) payment_instruments: Vec<Map<String, Value>>,
    /// A password reset token and its expiry.
    pub(crate) reset: Option<(String, u64)>,
}

impl Customer {
    pub(crate) fn set_name(&mut self, first: &str, last: &str) {
        if !first.is_empty() {
            self.profile.insert("firstName".into(), first.into());
        }
        self.profile.insert("lastName".into(), last.into());
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.profile.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// The document in the response to `GET /customers/{id}`.
    pub(crate) fn document(&self) -> Map<String, Value> {
        let mut document = self.profile.clone();
        document.insert("hasPassword".into(), self.password.is_some().into());
        if !self.addresses.is_empty() {
            document.insert("addresses".into(), self.addresses.clone().into());
        }
        if !self.payment_instruments.is_empty() {
            document.insert("paymentInstruments".into(), self.payment_instruments.clone().into());
        }
        document
    }

    fn identity(&self, guest_customer_id: String) -> Identity {
        let name = format!("{} {}", self.text("firstName"), self.text("lastName"));
        Identity {
            origin: self.origin.clone(),
            login: self.login.clone(),
            display_name: name.trim().to_owned(),
            guest_customer_id,
            registered_customer_id: Some(self.id.clone()),
        }
    }
}

impl Shop {
    /// Adds a customer without a password and returns the id.
    pub(crate) fn enlist(&mut self, organization: &str, origin: &str, login: &str, email: &str) -> String {
        let id = identifiers::customer();
        let now = clock::timestamp();
        let mut profile = Map::new();
        for (name, value) in [
            ("authType", "registered"),
            ("customerId", id.as_str()),
            ("customerNo", self.next_number().as_str()),
            ("email", email),
            ("login", login),
            ("creationDate", now.as_str()),
            ("lastModified", now.as_str()),
            ("preferredLocale", "en_US"),
        ] {
            profile.insert(name.into(), value.into());
        }
        profile.insert("enabled".into(), true.into());
        let customer = Customer {
            organization: organization.to_owned(),
            id: id.clone(),
            login: login.to_owned(),
            origin: origin.to_owned(),
            password: None,
            profile,
            addresses: Vec::new(),
            payment_instruments: Vec::new(),
            reset: None,
        };
        self.customers.insert(id.clone(), customer);
        id
    }

    pub(crate) fn customer(&self, organization: &str, id: &str) -> Option<&Customer> {
        let customer = self.customers.get(id)?;
        (customer.organization == organization).then_some(customer)
    }

    pub(crate) fn customer_mut(&mut self, organization: &str, id: &str) -> Option<&mut Customer> {
        let customer = self.customers.get_mut(id)?;
        (customer.organization == organization).then_some(customer)
    }

    pub(crate) fn by_login(&mut self, organization: &str, origin: &str, login: &str) -> Option<&mut Customer> {
        self.customers.values_mut().find(|customer| {
            customer.organization == organization && customer.origin == origin && customer.login == login
        })
    }

    /// Checks a shopper's password, records the login and returns the identity.
    pub(crate) fn log_in(
        &mut self,
        organization: &str,
        login: &str,
        password: &str,
        guest: String,
    ) -> Option<Identity> {
        let customer = self.by_login(organization, "ecom", login)?;
        if customer.password.as_deref() != Some(password) {
            return None;
        }
        let now = Value::from(clock::timestamp());
        let previous = customer.profile.insert("lastLoginTime".into(), now.clone());
        if let Some(previous) = previous {
            customer.profile.insert("previousLoginTime".into(), previous);
        }
        customer.profile.insert("lastVisitTime".into(), now);
        Some(customer.identity(guest))
    }

    /// The identity of a known shopper of any identity provider.
    pub(crate) fn identity(
        &mut self,
        organization: &str,
        origin: &str,
        login: &str,
        guest: String,
    ) -> Option<Identity> {
        self.by_login(organization, origin, login).map(|customer| customer.identity(guest))
    }

    pub(crate) fn has_login(&mut self, organization: &str, login: &str) -> bool {
        self.by_login(organization, "ecom", login).is_some()
    }

    /// Creates the shopper of another identity provider.
    pub(crate) fn register_external(
        &mut self,
        organization: &str,
        origin: &str,
        login: &str,
        email: &str,
        guest: String,
    ) -> Identity {
        let id = self.enlist(organization, origin, login, email);
        // Without names SLAS derives one from the e-mail address.
        let (first, last) = email.split_once('@').unwrap_or((email, ""));
        let fallback = Identity::guest(guest.clone());
        let Some(customer) = self.customers.get_mut(&id) else {
            return fallback;
        };
        customer.set_name(first, last);
        customer.profile.insert("externalId".into(), login.into());
        customer.identity(guest)
    }

    /// The identity of an identity provider's user, who becomes a customer at the first login.
    pub(crate) fn log_in_at(&mut self, organization: &str, provider: &IdentityProvider, guest: String) -> Identity {
        if let Some(identity) = self.identity(organization, &provider.name, &provider.login, guest.clone()) {
            return identity;
        }
        self.register_external(organization, &provider.name, &provider.login, &provider.email, guest.clone());
        let Some(customer) = self.by_login(organization, &provider.name, &provider.login) else {
            return Identity::guest(guest);
        };
        customer.set_name(&provider.first_name, &provider.last_name);
        customer.identity(guest)
    }

    pub(crate) fn register_without_password(
        &mut self,
        organization: &str,
        login: &str,
        first: &str,
        last: &str,
        email: &str,
    ) {
        if self.has_login(organization, login) {
            return;
        }
        let id = self.enlist(organization, "ecom", login, email);
        if let Some(customer) = self.customers.get_mut(&id) {
            customer.set_name(first, last);
        }
    }

    /// Sets a password and returns the customer's id.
    pub(crate) fn set_password(&mut self, organization: &str, login: &str, password: &str) -> Option<String> {
        let customer = self.by_login(organization, "ecom", login)?;
        customer.password = Some(password.to_owned());
        customer.reset = None;
        Some(customer.id.clone())
    }

    pub(crate) fn profile(&self, organization: &str, id: &str) -> Option<Map<String, Value>> {
        self.customer(organization, id).map(|customer| customer.profile.clone())
    }
}
