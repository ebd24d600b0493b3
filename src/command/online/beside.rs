//! What runs beside the gateway: the session store, and the collector of traces.

use std::time::{Duration, Instant};

use super::{Finding, timed};
use crate::{
    app,
    metrics::Metrics,
    settings::{Settings, Store},
    telemetry::traces,
};

pub(super) async fn ask_store(settings: &Settings, metrics: &Metrics) -> Option<Finding> {
    let Store::Redis(redis) = &settings.store else { return None };
    let what = "session store, Redis".to_owned();
    Some(
        timed(what, async {
            let store = app::session_store(settings, metrics).map_err(|error| error.to_string())?;
            // The first command also connects, which may take longer than a command may.
            let deadline = Instant::now() + settings.timeouts.connect;
            loop {
                match store.find(&[0; 32]).await {
                    Ok(_) => return Ok(format!("answers within {} ms", redis.timeout.as_millis())),
                    Err(error) if Instant::now() >= deadline => {
                        return Err(format!("{error}; see store.url, its user and password, store.ca"));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(300)).await,
                }
            }
        })
        .await,
    )
}

/// Sends no span, as `serve` would send some.
pub(super) async fn ask_collector(settings: &Settings) -> Option<Finding> {
    let endpoint = settings.traces.endpoint.as_ref()?;
    let answer = async {
        let tried = traces::try_collector(endpoint).await;
        tried.map(|()| "takes them".to_owned()).map_err(|error| format!("{error}; see traces.endpoint"))
    };
    Some(timed(format!("collector of traces at {endpoint}"), answer).await)
}
