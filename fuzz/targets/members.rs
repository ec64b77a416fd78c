#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use signal_hook::{consts::SIGPIPE, flag};

fuzz_target!(
    // Programs in Rust and Node.js ignore this signal from the start; this one begins in C++.
    init: {
        flag::register(SIGPIPE, Arc::default()).expect("a handler");
    },
    |bytes: &[u8]| wsmsgbroker::fuzzing::members(bytes)
);
