#!/bin/sh
# Runs a command in an Alpine container that has Node.js: installs what a musl build and the tests need first.
set -eu
apk add --no-cache build-base git nats-server py3-pip rustup
rustup-init -y --profile minimal --default-toolchain stable
. "$HOME/.cargo/env"
exec sh -c "$1"
