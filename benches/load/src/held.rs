//! Modes that go on until whoever started them closes standard input.

use std::io::{self, Read};
use std::time::Duration;

use mio::{Registry, Token, Waker};

/// Should whoever started this forget about it, it ends by itself.
pub(crate) const HOLD: Duration = Duration::from_secs(600);

/// Standard input may be a file, which epoll refuses, so a second thread blocks on it; it costs nothing
/// meanwhile.
pub(crate) fn wake_at_end_of_input(registry: &Registry, token: Token) -> io::Result<()> {
    let waker = Waker::new(registry, token)?;
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(length) if length > 0) {}
        waker.wake()?;
        // Dropped with the thread, it would take its event along unseen.
        std::mem::forget(waker);
        Ok::<_, io::Error>(())
    });
    Ok(())
}
