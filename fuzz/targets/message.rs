#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wsmsgbroker::fuzzing::message(bytes));
