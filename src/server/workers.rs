//! Worker threads that serve connections. Each has its own single-threaded runtime, and a connection stays on its worker.
//!
//! No request moves between cores, and no scheduler steals work. For many short requests this is cheaper than one shared runtime.
//! Slow work and background tasks run on the main runtime.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    sync::watch,
};

/// Worker threads. They run until this value is dropped.
#[derive(Debug)]
pub struct Workers {
    handles: Arc<WorkerHandles>,
    _stop: watch::Sender<()>,
}

/// Handles to the workers' runtimes, in turn.
#[derive(Debug)]
pub(super) struct WorkerHandles {
    runtimes: Vec<Handle>,
    taken: AtomicUsize,
}

impl Workers {
    /// Starts `count` workers, at least one.
    ///
    /// # Errors
    /// Returns the I/O error if the system has no thread or file descriptor left.
    pub fn start(count: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(());
        let mut runtimes = Vec::new();
        for number in 0..count.max(1) {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtimes.push(runtime.handle().clone());
            let mut stopped = stopped.clone();
            // The loop ends when the sender is dropped.
            let serve = move || runtime.block_on(async move { while stopped.changed().await.is_ok() {} });
            thread::Builder::new().name(format!("worker-{number}")).spawn(serve)?;
        }
        Ok(Self { handles: Arc::new(WorkerHandles { runtimes, taken: AtomicUsize::new(0) }), _stop: stop })
    }

    /// The number of workers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.handles.runtimes.len()
    }

    /// Handles for distributing connections.
    pub(super) fn handles(&self) -> Arc<WorkerHandles> {
        Arc::clone(&self.handles)
    }
}

impl WorkerHandles {
    /// The worker for the next connection, in turn: its number and its runtime.
    pub(super) fn next(&self) -> Option<(usize, &Handle)> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed) % self.runtimes.len().max(1);
        Some((number, self.runtimes.get(number)?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn workers_take_turns_and_end_their_connections() {
        let workers = Workers::start(2).unwrap();
        let (handles, mut names) = (workers.handles(), Vec::new());
        for _ in 0..4 {
            let name = handles.next().unwrap().1.spawn(async { thread::current().name().unwrap().to_owned() });
            names.push(name.await.unwrap());
        }
        assert_eq!(names, ["worker-0", "worker-1", "worker-0", "worker-1"]);

        let served = handles.next().unwrap().1.spawn(std::future::pending::<()>());
        drop(workers);
        let ended = tokio::time::timeout(Duration::from_secs(30), served).await.unwrap();
        assert!(ended.unwrap_err().is_cancelled());
    }
}
