//! The Shopper Customers operations with state: registration, profile, password, addresses, payment instruments, and a
//! customer's baskets and orders.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Call, bad_request, member};
use crate::clock;
use crate::identifiers;
use crate::response::{Outcome, ServiceResponse};
use crate::seed::tenant_of;
use crate::shop::Customer;
use crate::world::overlay;

const RESET_MINUTES: u64 = 30;

/// The response of an operation with state, or `None` for others.
pub(super) fn respond(call: &Call<'_>, operation: &str) -> Option<Outcome> {
    Some(match operation {
        "registerCustomer" => register(call),
        "getResetPasswordToken" => create_reset_token(call),
        "resetPassword" => reset_password(call),
        "getExternalProfile" => external_profile(call),
        "getCustomer" => customer(call),
        "updateCustomer" => update(call),
        "updateCustomerPassword" => change_password(call),
        "createCustomerAddress" => create_address(call),
        "getCustomerAddress" => address(call, Change::Read),
        "updateCustomerAddress" => address(call, Change::Write),
        "removeCustomerAddress" => address(call, Change::Remove),
        "createCustomerPaymentInstrument" => create_payment_instrument(call),
        "getCustomerPaymentInstrument" => payment_instrument(call, Change::Read),
        "updateCustomerPaymentInstrument" => payment_instrument(call, Change::Write),
        "deleteCustomerPaymentInstrument" => payment_instrument(call, Change::Remove),
        "getCustomerBaskets" => baskets(call),
        "getCustomerOrders" => orders(call),
        _ => return None,
    })
}

/// The action on one entry of a list.
#[derive(Clone, Copy)]
pub(super) enum Change {
    Read,
    Write,
    Remove,
}

fn register(call: &Call<'_>) -> Outcome {
    if call.shopper()?.identity.is_registered() {
        return Err(invalid_customer("The customer is registered already."));
    }
    let mut body = call.object()?;
    let password = text(&body, "password").to_owned();
    let mut profile = match body.remove("customer") {
        Some(Value::Object(profile)) => profile,
        _ => return Err(invalid_customer("The customer is invalid.")),
    };
    let (login, email) = (text(&profile, "login").to_owned(), text(&profile, "email").to_owned());
    if login.is_empty() || !email.contains('@') || text(&profile, "lastName").is_empty() {
        return Err(invalid_customer("The customer is invalid."));
    }
    acceptable(&password)?;
    let organization = call.organization();
    let mut shop = call.world.shop();
    if shop.has_login(organization, &login) {
        return Err(ServiceResponse::problem_with(
            StatusCode::BAD_REQUEST,
            "Login Already In Use",
            &format!("The login '{login}' is already in use."),
            member("login", &login),
        ));
    }
    let id = shop.enlist(organization, "ecom", &login, &email);
    protect(&mut profile);
    let customer = shop.customer_mut(organization, &id).ok_or_else(|| unknown_customer(&id))?;
    customer.password = Some(password);
    overlay(&mut customer.profile, profile);
    Ok(ServiceResponse::ok(&Value::Object(customer.document())))
}

/// Fields that only the system may set.
fn protect(profile: &mut Map<String, Value>) {
    for name in [
        "authType",
        "customerId",
        "customerNo",
        "creationDate",
        "addresses",
        "paymentInstruments",
        "hasPassword",
        "password",
        "currentPassword",
    ] {
        profile.remove(name);
    }
}

/// The simulator's password rule: eight characters.
fn acceptable(password: &str) -> Result<(), ServiceResponse> {
    if password.chars().count() >= 8 {
        Ok(())
    } else {
        Err(ServiceResponse::problem(
            StatusCode::BAD_REQUEST,
            "Invalid Password",
            "The password doesn't match acceptance criteria.",
        ))
    }
}

fn create_reset_token(call: &Call<'_>) -> Outcome {
    let body = call.object()?;
    let login = text(&body, "login");
    let mut shop = call.world.shop();
    let customer = shop
        .by_login(call.organization(), "ecom", login)
        .ok_or_else(|| invalid_customer("The customer is invalid."))?;
    let token = identifiers::record();
    customer.reset = Some((token.clone(), clock::seconds() + RESET_MINUTES * 60));
    Ok(ServiceResponse::ok(&json!({
        "login": login, "email": customer.text("email"),
        "resetToken": token, "expiresInMinutes": RESET_MINUTES,
    })))
}

fn reset_password(call: &Call<'_>) -> Outcome {
    let body = call.object()?;
    let (login, shown) = (text(&body, "login"), text(&body, "resetToken"));
    let password = text(&body, "newPassword");
    acceptable(password)?;
    let organization = call.organization();
    let mut shop = call.world.shop();
    let known = shop.by_login(organization, "ecom", login).and_then(|customer| customer.reset.clone());
    if !known.is_some_and(|(token, ends)| token == shown && ends > clock::seconds()) {
        return Err(ServiceResponse::problem(
            StatusCode::BAD_REQUEST,
            "Invalid Reset Token",
            "The reset token is invalid.",
        ));
    }
    if let Some(id) = shop.set_password(organization, login, password) {
        credentials_changed(call, &id);
    }
    Ok(ServiceResponse::empty(StatusCode::NO_CONTENT))
}

/// Revokes the shopper's earlier tokens after a password change.
fn credentials_changed(call: &Call<'_>, customer: &str) {
    let serial = call.world.serial();
    let tenant = tenant_of(call.organization());
    call.world.sessions().credentials_changed(tenant, customer, serial);
}

fn external_profile(call: &Call<'_>) -> Outcome {
    let parameters = call.parameters();
    let (external, provider) = (parameters.text("externalId"), parameters.text("authenticationProviderId"));
    let mut shop = call.world.shop();
    match shop.by_login(call.organization(), provider, external) {
        Some(customer) => Ok(ServiceResponse::ok(&Value::Object(customer.document()))),
        None => Err(ServiceResponse::problem_with(
            StatusCode::NOT_FOUND,
            "Not Found",
            &format!("No customer with external profile with ID '{external}' could be found."),
            member("externalId", external),
        )),
    }
}

fn customer(call: &Call<'_>) -> Outcome {
    let token = call.shopper()?;
    own(call)?;
    if !token.identity.is_registered() {
        return Ok(ServiceResponse::ok(&json!({
            "authType": "guest", "customerId": token.identity.customer_id(), "preferredLocale": "en_US",
        })));
    }
    change(call, |customer| Ok(customer.document().into()))
}

fn update(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    protect(&mut body);
    change(call, |customer| {
        overlay(&mut customer.profile, body);
        let now = clock::timestamp();
        customer.profile.insert("lastModified".into(), now.into());
        Ok(customer.document().into())
    })
}

fn change_password(call: &Call<'_>) -> Outcome {
    let body = call.object()?;
    let (current, password) = (text(&body, "currentPassword"), text(&body, "password"));
    acceptable(password)?;
    change(call, |customer| {
        if customer.password.as_deref() != Some(current) {
            return Err(ServiceResponse::problem(
                StatusCode::BAD_REQUEST,
                "Password Not Matching",
                "The current password is wrong.",
            ));
        }
        customer.password = Some(password.to_owned());
        Ok(Value::Null)
    })?;
    credentials_changed(call, call.variable("customerId"));
    Ok(ServiceResponse::empty(StatusCode::NO_CONTENT))
}

fn create_address(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    let missing = ["addressId", "lastName", "countryCode"].into_iter().find(|name| text(&body, name).is_empty());
    if let Some(name) = missing {
        return Err(bad_request(&format!("The property '{name}' is required.")));
    }
    let now = clock::timestamp();
    body.insert("creationDate".into(), now.clone().into());
    body.insert("lastModified".into(), now.into());
    change(call, |customer| {
        let id = text(&body, "addressId");
        if customer.addresses.iter().any(|known| text(known, "addressId") == id) {
            return Err(bad_request(&format!("An address with ID '{id}' exists already.")));
        }
        one_of(&mut customer.addresses, "preferred", &body);
        customer.addresses.push(body.clone());
        Ok(body.into())
    })
}

fn address(call: &Call<'_>, what: Change) -> Outcome {
    let name = call.variable("addressName");
    entry(call, what, "addressId", name, |customer| &mut customer.addresses)
}

fn create_payment_instrument(call: &Call<'_>) -> Outcome {
    let mut body = call.object()?;
    if text(&body, "paymentMethodId").is_empty() {
        return Err(bad_request("The property 'paymentMethodId' is required."));
    }
    body.insert("paymentInstrumentId".into(), identifiers::record().into());
    body.insert("creationDate".into(), clock::timestamp().into());
    mask(&mut body);
    change(call, |customer| {
        one_of(&mut customer.payment_instruments, "default", &body);
        customer.payment_instruments.push(body.clone());
        Ok(body.into())
    })
}

/// Only one entry of a list has the flag. One that sets it takes it from the others.
fn one_of(entries: &mut [Map<String, Value>], flag: &str, body: &Map<String, Value>) {
    if body.get(flag) == Some(&Value::Bool(true)) {
        for entry in entries.iter_mut().filter(|entry| entry.contains_key(flag)) {
            entry.insert(flag.into(), false.into());
        }
    }
}

/// Masks the card number for responses.
pub(super) fn mask(instrument: &mut Map<String, Value>) {
    let Some(Value::Object(card)) = instrument.get_mut("paymentCard") else {
        return;
    };
    card.remove("securityCode");
    let number = card.remove("number");
    let digits: Vec<char> = number.as_ref().and_then(Value::as_str).unwrap_or_default().chars().collect();
    if digits.len() >= 4 {
        let last: String = digits[digits.len() - 4..].iter().collect();
        card.insert("maskedNumber".into(), format!("{}{last}", "*".repeat(digits.len() - 4)).into());
        card.insert("numberLastDigits".into(), last.into());
    }
}

fn payment_instrument(call: &Call<'_>, what: Change) -> Outcome {
    let id = call.variable("paymentInstrumentId");
    entry(call, what, "paymentInstrumentId", id, |customer| &mut customer.payment_instruments)
}

/// Reads, changes or removes the entry whose `key` is `id`.
fn entry(
    call: &Call<'_>,
    what: Change,
    key: &str,
    id: &str,
    list: impl Fn(&mut Customer) -> &mut Vec<Map<String, Value>>,
) -> Outcome {
    let body = call.request.object();
    let response = change(call, |customer| {
        let entries = list(customer);
        let place = entries.iter().position(|entry| text(entry, key) == id);
        let place = place.ok_or_else(|| {
            let detail = format!("No entry with ID '{id}' could be found.");
            ServiceResponse::problem_with(StatusCode::NOT_FOUND, "Not Found", &detail, member(key, id))
        })?;
        match what {
            Change::Read => {}
            Change::Write => {
                for flag in ["preferred", "default"] {
                    one_of(entries, flag, &body);
                }
                overlay(&mut entries[place], body);
            }
            Change::Remove => return Ok(entries.remove(place).into()),
        }
        Ok(entries[place].clone().into())
    })?;
    Ok(match what {
        Change::Remove => ServiceResponse::empty(StatusCode::NO_CONTENT),
        Change::Read | Change::Write => response,
    })
}

fn baskets(call: &Call<'_>) -> Outcome {
    let customer = own(call)?;
    let shop = call.world.shop();
    let own: Vec<_> = shop
        .baskets
        .values()
        .filter(|basket| basket.owner == customer && basket.organization == call.organization())
        .map(|basket| Value::Object(basket.written()))
        .collect();
    Ok(ServiceResponse::ok(&json!({"total": own.len(), "baskets": own})))
}

fn orders(call: &Call<'_>) -> Outcome {
    let customer = own(call)?;
    let shop = call.world.shop();
    let parameters = call.parameters();
    let (limit, offset) = (parameters.number("limit", 10), parameters.number("offset", 0));
    // The newest comes first.
    let own: Vec<_> = shop
        .orders
        .values()
        .rev()
        .filter(|order| order.owner == customer && order.organization == call.organization())
        .map(|order| Value::Object(order.document.clone()))
        .collect();
    let page: Vec<_> = own.iter().skip(offset).take(limit).collect();
    Ok(ServiceResponse::ok(&json!({"limit": limit, "offset": offset, "total": own.len(), "data": page})))
}

/// The customer of the path, who must be the customer of the token.
pub(super) fn own<'c>(call: &'c Call<'_>) -> Result<&'c str, ServiceResponse> {
    let customer = call.variable("customerId");
    if call.shopper()?.identity.customer_id() == customer {
        Ok(customer)
    } else {
        Err(invalid_customer(
            "CustomerId URL parameter does not match the verified customer represented by the JWT token.",
        ))
    }
}

/// Changes the token's own registered customer and returns the result.
fn change(call: &Call<'_>, change: impl FnOnce(&mut Customer) -> Result<Value, ServiceResponse>) -> Outcome {
    let id = own(call)?;
    let mut shop = call.world.shop();
    let customer = shop.customer_mut(call.organization(), id).ok_or_else(|| unknown_customer(id))?;
    change(customer).map(|document| ServiceResponse::ok(&document))
}

fn invalid_customer(detail: &str) -> ServiceResponse {
    ServiceResponse::problem(StatusCode::BAD_REQUEST, "Invalid Customer", detail)
}

fn unknown_customer(id: &str) -> ServiceResponse {
    let detail = format!("No customer with ID '{id}' could be found.");
    ServiceResponse::problem_with(StatusCode::NOT_FOUND, "Not Found", &detail, member("customerId", id))
}

pub(super) fn text<'m>(document: &'m Map<String, Value>, name: &str) -> &'m str {
    document.get(name).and_then(Value::as_str).unwrap_or_default()
}
