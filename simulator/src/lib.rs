//! A local Account Manager, SLAS and B2C Commerce Shopper APIs on one listener, for
//! demos, tests and offline development. State lives in memory and dies with it.
//!
//! The modules, from the door inwards:
//! - `simulator` starts and stops it; `wire` accepts connections and breaks them on order;
//! - `control` is the API below `/__simulator`; `edge` takes every other request: records it
//!   in the `ledger`, strikes it with `faults`, and hands it to one of the three services;
//! - `account_manager`, `slas` and `api` are the services; `operations` is the published table;
//! - `world` is what they share: `seed`, `behaviour`, `keys`, the `shop`, SLAS's sessions;
//! - `jwt`, `shopper_token`, `inbound`, `answer`, `limits`, `identifiers`, `clock` are their words.

mod account_manager;
mod answer;
mod api;
mod behaviour;
mod clock;
mod control;
mod edge;
mod faults;
mod identifiers;
mod inbound;
mod jwt;
mod keys;
mod ledger;
mod limits;
mod operations;
mod seed;
mod shop;
mod shopper_token;
mod simulator;
mod slas;
mod wire;
mod world;

pub use behaviour::Behaviour;
pub use faults::{Effect, Fault, ResetAt};
pub use ledger::LedgerEntry;
pub use seed::{AccountManagerClient, Category, DEFAULT_SEED, Organization, Product, Seed, SeededShopper, SlasClient};
pub use shopper_token::ShopperTokenSpec;
pub use simulator::{Simulator, start};
pub use slas::sessions::{Delivery, Purpose};
