//! Measures the time of each benchmark: `npm run bench:micro`.

use divan::{Bencher, counter::ItemsCount};
use wsmsgbroker_micro::{self as micro, BATCH, Run};

const SIZES: [usize; 3] = [100, 1_024, 16_384];

fn main() {
    divan::main();
}

/// Times a run that processes this many messages.
fn time(bencher: Bencher<'_, '_>, messages: usize, run: Run) {
    bencher.counter(ItemsCount::new(messages)).bench_local(run);
}

#[divan::bench(args = SIZES)]
fn decode_send(bencher: Bencher<'_, '_>, bytes: usize) {
    time(bencher, 1, micro::decode_send(bytes));
}

#[divan::bench(args = [1024])]
fn decode_escaped(bencher: Bencher<'_, '_>, bytes: usize) {
    time(bencher, 1, micro::decode_escaped(bytes));
}

#[divan::bench(args = [100])]
fn decode_dest(bencher: Bencher<'_, '_>, receivers: usize) {
    time(bencher, 1, micro::decode_dest(receivers));
}

#[divan::bench]
fn decode_answer(bencher: Bencher<'_, '_>) {
    time(bencher, 1, micro::decode_answer());
}

#[divan::bench]
fn decode_register(bencher: Bencher<'_, '_>) {
    time(bencher, 1, micro::decode_register());
}

#[divan::bench(args = SIZES)]
fn read(bencher: Bencher<'_, '_>, bytes: usize) {
    time(bencher, BATCH, micro::read(bytes));
}

#[divan::bench(args = [10, 100_000])]
fn find(bencher: Bencher<'_, '_>, ids: usize) {
    time(bencher, BATCH, micro::find(ids));
}

#[divan::bench(args = SIZES)]
fn encode(bencher: Bencher<'_, '_>, bytes: usize) {
    time(bencher, 1, micro::encode(bytes));
}

#[divan::bench(args = SIZES)]
fn queue(bencher: Bencher<'_, '_>, bytes: usize) {
    time(bencher, BATCH, micro::queue(bytes));
}

#[divan::bench(args = SIZES)]
fn route(bencher: Bencher<'_, '_>, bytes: usize) {
    time(bencher, BATCH, micro::route(bytes));
}

#[divan::bench(args = [100_000])]
fn route_among(bencher: Bencher<'_, '_>, ids: usize) {
    time(bencher, BATCH, micro::route_among(ids));
}

#[divan::bench(args = [100, 100_000])]
fn route_to_many(bencher: Bencher<'_, '_>, ids: usize) {
    time(bencher, BATCH, micro::route_to_many(ids));
}

#[divan::bench]
fn ask(bencher: Bencher<'_, '_>) {
    time(bencher, BATCH, micro::ask());
}
