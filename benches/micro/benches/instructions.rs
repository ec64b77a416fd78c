//! Counts the instructions of each benchmark: `npm run bench:instructions`.

#![allow(missing_docs, reason = "what the macros make has none")]

use gungraun::{Callgrind, prelude::*};
use wsmsgbroker_micro::{self as micro, Run};

/// Runs the benchmark once more. It is returned, so that dropping it is not counted.
fn once(mut run: Run) -> (Run, usize) {
    let result = run();
    (run, result)
}

#[library_benchmark]
#[bench::send_100(micro::decode_send(100))]
#[bench::send_1024(micro::decode_send(1_024))]
#[bench::send_16384(micro::decode_send(16_384))]
#[bench::escaped_1024(micro::decode_escaped(1_024))]
#[bench::dest_100(micro::decode_dest(100))]
#[bench::answer(micro::decode_answer())]
#[bench::register(micro::decode_register())]
fn decode(run: Run) -> (Run, usize) {
    once(run)
}

#[library_benchmark]
#[bench::bytes_100(micro::read(100))]
#[bench::bytes_1024(micro::read(1_024))]
#[bench::bytes_16384(micro::read(16_384))]
fn read(run: Run) -> (Run, usize) {
    once(run)
}

#[library_benchmark]
#[bench::among_10(micro::find(10))]
#[bench::among_100000(micro::find(100_000))]
fn find(run: Run) -> (Run, usize) {
    once(run)
}

#[library_benchmark]
#[bench::bytes_100(micro::encode(100))]
#[bench::bytes_1024(micro::encode(1_024))]
#[bench::bytes_16384(micro::encode(16_384))]
fn encode(run: Run) -> (Run, usize) {
    once(run)
}

#[library_benchmark]
#[bench::bytes_100(micro::queue(100))]
#[bench::bytes_1024(micro::queue(1_024))]
#[bench::bytes_16384(micro::queue(16_384))]
fn queue(run: Run) -> (Run, usize) {
    once(run)
}

#[library_benchmark]
#[bench::bytes_100(micro::route(100))]
#[bench::bytes_1024(micro::route(1_024))]
#[bench::bytes_16384(micro::route(16_384))]
#[bench::among_100000(micro::route_among(100_000))]
#[bench::to_100_among_100(micro::route_to_many(100))]
#[bench::to_100_among_100000(micro::route_to_many(100_000))]
#[bench::request_and_answer(micro::ask())]
fn route(run: Run) -> (Run, usize) {
    once(run)
}

library_benchmark_group!(
    name = way,
    benchmarks = [decode, read, find, encode, queue, route]
);

main!(
    config = LibraryBenchmarkConfig::default()
        // Instructions only: simulated caches are not realistic, and would double the time.
        .tool(Callgrind::with_args(["--cache-sim=no"]))
        // Valgrind counts a `rep movsb` as one instruction per byte.
        .env("GLIBC_TUNABLES", "glibc.cpu.x86_rep_movsb_threshold=0x7fffffff");
    library_benchmark_groups = way
);
