//! Where lines wait for a file or pipe that is slow, blocked or full.
//!
//! Owns one thread and one bounded queue for each destination. Whoever logs never waits: a request must not hang because
//! nobody reads a pipe. What the queue cannot take is dropped and counted. What a destination refuses is offered again once
//! a second, from where it stopped, so that a disk that was full for a while has every line once, and whole.
//! (`tracing-appender` has queue and thread, but drops what the destination refuses without a word, in mid-line.)

use std::{
    io::{self, ErrorKind, Write},
    sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;

/// Until a destination that refused is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Lines that come within this time are written together: waking the thread for each would cost whoever logs more than
/// the line itself.
const BATCH_INTERVAL: Duration = Duration::from_millis(5);
/// What is written at once, bytes: as much as a pipe takes whole (`PIPE_BUF`, pipe(7)), so that the lines of two who
/// write to one pipe do not meet in the middle.
const MAX_BATCH_BYTES: usize = 4096;
/// How often a full queue is looked at by who must not lose what it has.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One destination of lines.
#[derive(Debug)]
pub struct LogWriter {
    entries: SyncSender<Entry>,
    dropped: IntCounter,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

impl LogWriter {
    /// Lines for `destination`, of which `capacity` may wait; `name` is what the log calls it.
    ///
    /// # Errors
    /// If the operating system gives no thread.
    pub fn new(
        name: &'static str,
        destination: impl Write + Send + 'static,
        capacity: usize,
        dropped: IntCounter,
    ) -> io::Result<Self> {
        let (entries, queue) = sync_channel(capacity);
        let count = dropped.clone();
        thread::Builder::new()
            .name(format!("{name} writer"))
            .spawn(move || WriterThread { name, destination, dropped: count, reported: 0 }.run(&queue))?;
        Ok(Self { entries, dropped })
    }

    /// Returns when all lines so far are written, or at the deadline.
    pub fn flush(&self, deadline: Instant) {
        let (done, is_done) = sync_channel(1);
        let mut entry = Entry::Flush(done);
        while let Err(TrySendError::Full(unsent)) = self.entries.try_send(entry) {
            if Instant::now() >= deadline {
                return;
            }
            entry = unsent;
            thread::sleep(POLL_INTERVAL);
        }
        // Whatever ends the wait: there is no more time, or nothing to wait for.
        let _ = is_done.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Takes one whole line each time, as `tracing_subscriber` writes them.
impl Write for &LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.entries.try_send(Entry::Line(line.to_vec())).is_err() {
            self.dropped.inc();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What the thread has.
struct WriterThread<W> {
    name: &'static str,
    destination: W,
    dropped: IntCounter,
    /// How many dropped lines the log has told of.
    reported: u64,
}

impl<W: Write> WriterThread<W> {
    fn run(mut self, queue: &Receiver<Entry>) {
        let mut lines = Vec::with_capacity(MAX_BATCH_BYTES);
        loop {
            let entry = match queue.try_recv() {
                Ok(entry) => entry,
                Err(TryRecvError::Empty) => {
                    self.write(&mut lines);
                    self.report_dropped_lines();
                    thread::sleep(BATCH_INTERVAL);
                    let Ok(entry) = queue.recv() else { return };
                    entry
                }
                Err(TryRecvError::Disconnected) => return self.write(&mut lines),
            };
            match entry {
                Entry::Line(line) => {
                    if lines.len() + line.len() > MAX_BATCH_BYTES {
                        self.write(&mut lines);
                    }
                    lines.extend_from_slice(&line);
                }
                Entry::Flush(done) => {
                    self.write(&mut lines);
                    // Whoever asked may have stopped waiting.
                    let _ = done.send(());
                }
            }
        }
    }

    /// Writes these lines, which are none afterwards.
    fn write(&mut self, lines: &mut Vec<u8>) {
        let mut rest = lines.as_slice();
        let mut refused = false;
        while !rest.is_empty() {
            let error = match self.destination.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(written) => {
                    rest = rest.get(written..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            if !refused {
                tracing::error!(log = self.name, %error, "cannot be written; its lines wait, and it is tried each second");
            }
            refused = true;
            thread::sleep(RETRY_INTERVAL);
        }
        lines.clear();
        if refused {
            tracing::warn!(log = self.name, "can be written again");
        }
    }

    /// Said once the queue is empty, so that this line has a place in it.
    fn report_dropped_lines(&mut self) {
        let dropped = self.dropped.get();
        if dropped > self.reported {
            tracing::warn!(
                log = self.name,
                lines = dropped - self.reported,
                "lines were dropped: the log was not read in time"
            );
            self.reported = dropped;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    };

    use super::*;

    /// Takes three bytes at a time, and nothing while it is full.
    #[derive(Clone, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        bytes: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full.load(Ordering::Relaxed) {
                return Err(ErrorKind::StorageFull.into());
            }
            let mut written = self.bytes.lock().unwrap();
            let some = &bytes[..bytes.len().min(3)];
            written.extend_from_slice(some);
            // In the middle of the first line.
            if written.len() == 3 {
                self.full.store(true, Ordering::Relaxed);
            }
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("lost", "lost").unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn a_disk_that_was_full_has_every_line_once_and_whole() {
        let (disk, dropped) = (Disk::default(), counter());
        let writer = LogWriter::new("test", disk.clone(), 8, dropped.clone()).unwrap();
        for line in ["first line\n", "second\n"] {
            (&writer).write_all(line.as_bytes()).unwrap();
        }
        writer.flush(Instant::now() + Duration::from_millis(300));
        assert_eq!(*disk.bytes.lock().unwrap(), b"fir");
        disk.full.store(false, Ordering::Relaxed);
        writer.flush(soon());
        assert_eq!(*disk.bytes.lock().unwrap(), b"first line\nsecond\n");
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn nobody_waits_for_a_full_queue_and_what_is_lost_is_counted() {
        let (disk, dropped) = (Disk { full: Arc::new(AtomicBool::new(true)), ..Disk::default() }, counter());
        let writer = LogWriter::new("test", disk.clone(), 4, dropped.clone()).unwrap();
        for _ in 0..20 {
            (&writer).write_all(b"a line\n").unwrap();
        }
        // Four wait; one more may be in the writer's hands.
        assert!((15..=16).contains(&dropped.get()), "{}", dropped.get());
        disk.full.store(false, Ordering::Relaxed);
        disk.bytes.lock().unwrap().extend_from_slice(b"....");
        writer.flush(soon());
        let written = disk.bytes.lock().unwrap().len() - 4;
        assert_eq!(written as u64 / 7 + dropped.get(), 20);
    }

    #[test]
    fn flushing_ends_at_its_deadline() {
        let disk = Disk { full: Arc::new(AtomicBool::new(true)), ..Disk::default() };
        let writer = LogWriter::new("test", disk, 1, counter()).unwrap();
        for _ in 0..3 {
            (&writer).write_all(b"a line\n").unwrap();
        }
        let start = Instant::now();
        writer.flush(start + Duration::from_millis(50));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
