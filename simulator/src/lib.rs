//! A local Account Manager, SLAS and B2C Commerce Shopper APIs on one listener, for
//! demos, tests and offline development. The state is in memory and ends with the simulator.
//!
//! The modules, from the listener inwards:
//! - `simulator` starts and stops it; `connections` accepts connections and resets them for a fault;
//! - `control` is the API below `/__simulator`; `dispatch` handles every other request: records it
//!   in the `ledger`, applies `faults`, and dispatches it to one of the three services;
//! - `account_manager`, `slas` and `api` are the services; `operations` is the published table;
//! - `world` is their shared state: `seed`, `behaviour`, `keys`, the `shop`, SLAS's sessions;
//! - `jwt`, `shopper_token`, `request`, `response`, `limits`, `identifiers`, `clock` are their common types.

mod account_manager;
mod api;
mod behaviour;
mod clock;
mod connections;
mod control;
mod dispatch;
mod faults;
mod identifiers;
mod jwt;
mod keys;
mod ledger;
mod limits;
mod operations;
mod request;
mod response;
mod seed;
mod shop;
mod shopper_token;
mod simulator;
mod slas;
mod world;

pub use behaviour::Behaviour;
pub use faults::{Effect, Fault, ResetAt};
pub use ledger::LedgerEntry;
pub use seed::{
    AccountManagerClient, Category, DEFAULT_SEED, IdentityProvider, Organization, Product, Seed, SeededShopper,
    SlasClient, Variant,
};
pub use shopper_token::ShopperTokenSpec;
pub use simulator::{Simulator, start};
pub use slas::sessions::{Delivery, Purpose};
