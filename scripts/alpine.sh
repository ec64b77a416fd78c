#!/bin/sh
# Runs a command in an Alpine container with Node.js, after installing the tools of a musl build and of the tests. rustup
# installs the toolchain of rust-toolchain.toml when cargo first runs.
set -eu
apk add --no-cache build-base git nats-server py3-pip rustup
rustup-init -y --profile minimal --default-toolchain none
. "$HOME/.cargo/env"
exec sh -c "$1"
