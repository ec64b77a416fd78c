//! Properties that hold for any bytes: a function for each part that outside bytes reach first. Each panics
//! if the property does not hold.
//!
//! This is a module of the broker (feature `fuzzing`, and its tests), so it tests the code that users run.
//! The targets beside it pass the fuzzer's inputs; its test passes the seeds.

use tokio::runtime::{Builder, Runtime};

#[cfg(unix)]
mod conversation;
mod decode;
#[cfg(unix)]
mod framing;
mod handshake;
mod json;
#[cfg(unix)]
mod members;
mod message;
#[cfg(unix)]
mod peer;

#[cfg(unix)]
pub use conversation::conversation;
pub use decode::decode;
#[cfg(unix)]
pub use framing::framing;
pub use handshake::handshake;
#[cfg(unix)]
pub use members::members;
pub use message::message;

/// Pieces beyond which the rest comes at once: more would only take time.
const MOST_PIECES: usize = 64;

/// Cuts bytes into pieces of two lengths in turn, up to 16 and up to 241 bytes.
fn cuts(bytes: &[u8], cut: u8) -> impl Iterator<Item = &[u8]> {
    let lengths = [1 + usize::from(cut & 0x0f), 1 + usize::from(cut & 0xf0)];
    let mut rest = bytes;
    lengths
        .into_iter()
        .cycle()
        .zip(0..=MOST_PIECES)
        .map_while(move |(length, n)| {
            let length = if n == MOST_PIECES { rest.len() } else { length };
            let (piece, more) = rest.split_at(length.min(rest.len()));
            rest = more;
            (!piece.is_empty()).then_some(piece)
        })
}

/// Runs something to its end, on the one runtime of this thread.
fn runtime<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Most of it for the naive reading of JSON, which is recursive.
    const STACK: usize = 64 << 20;

    fn hold(target: &str, property: fn(&[u8])) {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
        let mut paths: Vec<_> = std::fs::read_dir(seeds.join(target))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert!(!paths.is_empty());
        paths.sort();
        let all = move || {
            for path in paths {
                let bytes = std::fs::read(&path).unwrap();
                let held = std::panic::catch_unwind(|| property(&bytes));
                held.unwrap_or_else(|_| panic!("{}", path.display()));
            }
        };
        let thread = std::thread::Builder::new().stack_size(STACK);
        thread.spawn(all).unwrap().join().unwrap();
    }

    #[test]
    fn frames_are_decoded_like_the_naive_parser_does() {
        hold("decode", super::decode);
    }

    #[cfg(unix)]
    #[test]
    fn frames_in_any_pieces_are_read_like_tungstenite_does() {
        hold("framing", super::framing);
    }

    #[test]
    fn requests_in_any_pieces_are_accepted_like_the_naive_parser_does() {
        hold("handshake", super::handshake);
    }

    #[cfg(unix)]
    #[test]
    fn members_of_any_type_are_answered_or_refused() {
        hold("members", super::members);
    }

    #[test]
    fn messages_of_brokers_are_refused_or_encoded_as_they_were() {
        hold("message", super::message);
    }

    #[cfg(unix)]
    #[test]
    fn peers_with_arbitrary_input_leave_no_resources() {
        hold("conversation", super::conversation);
    }
}
