//! Probes a SLAS that is down, so that no request has to.
//!
//! Each tenant has one background task. It probes at most once a second while the circuit breaker is open. After a
//! successful probe, [`CallGuard`](crate::salesforce::guard::CallGuard) lets one call through.

use std::time::Duration;

use crate::salesforce::slas::Slas;

/// Probes whenever a probe is due. It never returns. `within` is the time limit of one probe. The next probe does not
/// wait for it, because an unresponsive SLAS would delay the recovery by that time.
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
