//! An organization with the clients of its Salesforce services.

use crate::{
    config,
    salesforce::{account_manager::AccountManager, customers::Customers, slas::Slas},
    types::ByOrganization,
    verify::system_token::SystemVerifier,
};

/// All organizations of the configuration.
pub type Tenants = ByOrganization<Tenant>;

/// One organization.
#[derive(Debug)]
pub struct Tenant {
    /// Its configuration.
    pub settings: config::Tenant,
    /// Its SLAS.
    pub slas: Slas,
    /// Its Shopper Customers API.
    pub customers: Customers,
    /// Its Account Manager, if the configuration has one.
    pub account_manager: Option<AccountManager>,
    /// The verifier of system tokens, if the configuration has an Account Manager.
    pub systems: Option<SystemVerifier>,
}
