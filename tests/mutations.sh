#!/usr/bin/env bash
# Takes the armour off, plate by plate, in a copy of the sources, and shows which named test notices. Run by hand:
#   tests/mutations.sh [NAME...]
# A plate that no test misses ends it with 1. The copy and what is built of it are under $CHAIRSIDE_MUTATIONS, or a temporary folder.
set -uo pipefail
cd "$(dirname "$0")/.."
work=${CHAIRSIDE_MUTATIONS:-$(mktemp -d -t chairside-mutations-XXXXXX)}
copy=$work/source
mkdir -p "$copy"
export CARGO_TARGET_DIR=$work/target
survivors=()

# name | file | sed program | test targets | filters
mutations='
own fdatasync of volumes|src/spool/disk.rs|s/|| file.sync_data()/|| Ok(())/|--test spool|calls::no_append
own fdatasync of our files|src/disk/mod.rs|s/return simulated.sync(&self.file);/return Ok(());/|--lib|manifest::tests audit::tests
directory sync of our files|src/disk/mod.rs|s/return disk.sync_folder(folder);/return Ok(());/|--lib|clock::tests last_slots disk::tests
directory sync of a new volume|src/spool/volume.rs|s/disk.sync_folder("sync the folder of a new database", \(folder\|parent\))?;//|--lib|volume::tests
sequence of a frame is not checked|src/spool/reading.rs|s/stored.sequence == sequence \&\& //|--lib|model_tests damage_tests reading
store of a frame is not checked in a scan|src/spool/scan.rs|s/header.store != store || //|--lib|scan::tests damage_tests model_tests
missing sequences are not looked for|src/spool/scan.rs|s/self.places.iter().all(Option::is_some)/true/|--lib|damage_tests scan::tests model_tests
associated data|src/spool/frame.rs|s/Aad::from([^)]*)/Aad::from([0u8; 0])/|--lib|frame::tests
derived ids of resources|src/upstream/fhir/ids.rs|s/stored.sequence.0.to_be_bytes/0_u64.to_be_bytes/|--lib|fhir golden ids
salt of its own for each start|src/spool/opening.rs|s/opened.contents.salt = salt;/opened.contents.salt = [7; 32];/|--lib|damage_tests frame::tests
settled before its letter is durable|src/spool/store.rs|s/self.write_letters(upstream, verdicts)?;//|--lib|damage_tests dead::tests model_tests
a failed sync is tried again|src/spool/writing.rs|s/self.give_up_current();$//|--lib|damage_tests model_tests
an older slot of the manifest counts|src/spool/manifest.rs|s/max_by_key(|slot| slot.generation)/min_by_key(|slot| slot.generation)/|--lib|manifest::tests
the draft is not synced before it is renamed|src/disk/mod.rs|/file.write_all(bytes)?;/{n;s/file.sync()/Ok(())/}|--lib|keyring disk::tests clock::tests
'

refresh() { tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$copy"; }

try() {
  local name=$1 file=$2 program=$3 target=$4 filters=$5 output failed
  refresh
  sed -i "$program" "$copy/$file"
  if cmp -s "$file" "$copy/$file"; then
    printf 'STALE      %s: the sed program matches nothing in %s\n' "$name" "$file"
    survivors+=("$name")
    return
  fi
  touch "$copy/$file"
  # shellcheck disable=SC2086
  output=$(cd "$copy" && RUST_BACKTRACE=0 CHAIRSIDE_SEEDS=${CHAIRSIDE_SEEDS:-100} CHAIRSIDE_APPENDS=100 \
    cargo test --quiet --no-fail-fast $target -- $filters 2>&1)
  if grep -q '^error' <<<"$output" && ! grep -q '^test result' <<<"$output"; then
    printf 'NO BUILD   %s\n%s\n' "$name" "$(grep -m3 -A6 '^error' <<<"$output")"
    survivors+=("$name")
    return
  fi
  failed=$(sed -n '/^failures:$/,/^test result/s/^    \([a-z_:]*\)$/\1/p' <<<"$output" | sort -u)
  if [ -z "$failed" ]; then
    printf 'SURVIVED   %s\n' "$name"
    survivors+=("$name")
  else
    printf 'noticed    %s\n' "$name"
    sed 's/^/             /' <<<"$failed"
  fi
  cp "$file" "$copy/$file"
  touch "$copy/$file"
}

while IFS='|' read -r name file rest; do
  [ -n "$name" ] || continue
  # The sed program may contain bars: the last two fields are the target and the filters.
  filters=${rest##*|}; rest=${rest%|*}
  target=${rest##*|}; program=${rest%|*}
  if [ "$#" -gt 0 ] && ! printf '%s\n' "$@" | grep -qxF "$name"; then continue; fi
  try "$name" "$file" "$program" "$target" "$filters"
done <<<"$mutations"

if [ "${#survivors[@]}" -gt 0 ]; then
  printf '%s survived or could not be tried\n' "${#survivors[@]}"
  exit 1
fi
echo "every plate is missed by some test"
