//! Modes that run until their parent closes standard input.

use std::io::{self, Read};
use std::time::Duration;

use mio::{Registry, Token, Waker};

/// Maximum time, in case the parent does not end the process.
pub(crate) const HOLD: Duration = Duration::from_secs(600);

/// Standard input may be a file, which epoll rejects, so a second thread blocks on it. It uses no
/// processor time meanwhile.
pub(crate) fn wake_at_end_of_input(registry: &Registry, token: Token) -> io::Result<()> {
    let waker = Waker::new(registry, token)?;
    std::thread::spawn(move || {
        let mut byte = [0];
        while matches!(std::io::stdin().read(&mut byte), Ok(length) if length > 0) {}
        waker.wake()?;
        // Dropping it with the thread would discard its event.
        std::mem::forget(waker);
        Ok::<_, io::Error>(())
    });
    Ok(())
}
