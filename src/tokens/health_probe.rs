//! The way back after an outage of SLAS, without a request that has to wait for it.
//!
//! Owns the one background task of each tenant that asks a SLAS which is down for a sign of life, once a second at most. A
//! sign lets one call try; see [`CallGuard`](crate::salesforce::guard::CallGuard).

use std::time::Duration;

use crate::salesforce::slas::Slas;

/// Asks for signs of life whenever one is of use, for ever. `within`: how long SLAS may take to give one; asking goes on
/// meanwhile, or an outage that hangs would be over that much later.
pub async fn run(slas: Slas, within: Duration) {
    loop {
        slas.guard().probe_due().await;
        let slas = slas.clone();
        tokio::spawn(async move {
            if slas.probe(within).await {
                slas.guard().probe_succeeded();
            }
        });
    }
}
