#!/usr/bin/env bash
# Every figure, side by side in one run. Needs cargo and valgrind; ratios travel between computers, times do not.
set -euo pipefail
cd "$(dirname "$0")/../.."

echo "== build"
start=$(date +%s)
cargo build --release --locked --quiet
echo "  release build, from what was there: $(($(date +%s) - start)) s"
echo "  binary: $(stat -c %s target/release/chairside | awk '{printf "%.1f MB", $1 / 1e6}')"

echo "== decode"
cargo bench --quiet --locked --bench decode 2>/dev/null

echo "== instructions per Observation, whole pipeline against a bare decode-and-serialise loop (target at most 2.0)"
program=$(cargo bench --no-run --locked --bench pipeline --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*pipeline-[^"]*\)".*/\1/p' | tail -n 1)
# Two lengths of the same run: their difference is free of everything that happens once.
instructions() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1 >/dev/null |
    sed -n 's/.*Collected : //p'
}
per_observation() {
  local few many few_made many_made
  few=$(instructions "$1" 160) many=$(instructions "$1" 800)
  few_made=$("$program" "$1" 160) many_made=$("$program" "$1" 800)
  echo $(((many - few) / (many_made - few_made)))
}
whole=$(per_observation whole)
bare=$(per_observation bare)
awk -v whole="$whole" -v bare="$bare" 'BEGIN { printf "  %.2f   (%d against %d)\n", whole / bare, whole, bare }'

echo "== append: durable records against the bare disk (target at least 0.5), change of volume, bytes written"
cargo bench --quiet --locked --bench append 2>/dev/null

echo "== instructions per appended record, in batches of 16"
append=$(cargo bench --no-run --locked --bench append --message-format=json 2>/dev/null |
  sed -n 's/.*"executable":"\([^"]*append-[^"]*\)".*/\1/p' | tail -n 1)
appending() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$append" count "$1" 2>&1 >/dev/null |
    sed -n 's/.*Collected : //p'
}
# So many that the randomness drawn at the start, which takes as long as it takes, does not show.
few=$(appending 1600) many=$(appending 17600)
echo "  $(((many - few) / 16000)), of which sealing and the engine are counted, and the kernel is not"

echo "== opening with 72 hours of 30 chairs in the spool"
"$append" open 777600

echo "== memory"
cargo bench --quiet --locked --bench memory 2>/dev/null

echo "== half an hour of outage (three days: cargo bench --bench outage -- --hours 72 --machines 30)"
cargo bench --quiet --locked --bench outage 2>/dev/null

echo "== drain"
cargo bench --quiet --locked --bench drain 2>/dev/null
