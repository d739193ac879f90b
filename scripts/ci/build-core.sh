#!/bin/sh
# Builds the core for a Linux target inside a container that has a C compiler: `build-core.sh TARGET FILE [FEATURES]`.
# The container's C library is the oldest that the core then runs on. Leaves native/FILE.
set -eu
target=$1
file=$2
features=${3:-}

if command -v apk >/dev/null; then apk add --no-cache rustup gcc musl-dev >/dev/null; fi
if command -v dnf >/dev/null; then dnf install -y -q gcc; fi
if command -v rustup-init >/dev/null; then
  rustup-init -y --profile minimal --default-toolchain "$RUST_VERSION"
elif ! command -v cargo >/dev/null; then
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain "$RUST_VERSION"
fi
PATH="$HOME/.cargo/bin:$PATH"

cargo build --release --locked --target "$target" -p flowtune-node ${features:+--features "$features"}
mkdir -p native
cp "target/$target/release/libflowtune_node.so" "native/$file"
