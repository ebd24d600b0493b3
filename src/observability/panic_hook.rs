//! Logs panics with their location.
//!
//! A panic message can contain request data, for example when slicing a string fails. So the hook logs a message only if it is
//! a string literal of the program.

use std::panic::{self, PanicHookInfo};

/// Installs the hook: panics are written to the log only.
pub(super) fn install() {
    panic::set_hook(Box::new(|panic| {
        let (location, panic_message) = (location(panic), message(panic));
        tracing::error!(location, panic_message, "panic: this is a bug in the gateway");
    }));
}

fn location(panic: &PanicHookInfo<'_>) -> String {
    panic.location().map_or_else(|| "unknown".to_owned(), |at| format!("{}:{}", at.file(), at.line()))
}

fn message(panic: &PanicHookInfo<'_>) -> &'static str {
    panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("withheld, because it may contain request data")
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn panic_line_has_location_and_no_secret() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let before = panic::take_hook();
        install();
        tracing::subscriber::with_default(subscriber, || {
            let secret = "pässword-of-somebody".to_owned();
            assert!(panic::catch_unwind(|| panic!("{secret}")).is_err());
            assert!(panic::catch_unwind(|| secret[..2].len()).is_err());
            assert!(panic::catch_unwind(|| panic!("the table is empty")).is_err());
        });
        panic::set_hook(before);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 3, "{text}");
        assert!(!text.contains("ssword-of"), "{text}");
        assert!(text.contains(&format!("{}:", file!())) && text.contains("the table is empty"), "{text}");
    }
}
