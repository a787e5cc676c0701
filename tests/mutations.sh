#!/usr/bin/env bash
# Takes the armour off, plate by plate, in a copy of the sources, and shows which named test notices. Run by hand:
#   tests/mutations.sh [NAME...]
# The copy is built once: every plate is there, and goes missing where $CHAIRSIDE_PLATE names it.
# A plate that no test misses ends it with 1. The copy and what is built of it are under $CHAIRSIDE_MUTATIONS, or a temporary folder.
set -uo pipefail
cd "$(dirname "$0")/.."
work=${CHAIRSIDE_MUTATIONS:-$(mktemp -d -t chairside-mutations-XXXXXX)}
copy=$work/source
rm -rf "$copy"
mkdir -p "$copy"
export CARGO_TARGET_DIR=$work/target CARGO_INCREMENTAL=0 RUST_BACKTRACE=0
export CHAIRSIDE_SEEDS=${CHAIRSIDE_SEEDS:-100} CHAIRSIDE_APPENDS=${CHAIRSIDE_APPENDS:-100}
unset CHAIRSIDE_PLATE
survivors=()

# name | file | sed program, in which PLATE stands for "this plate is missing" | test target | filters
mutations='
own fdatasync of volumes|src/spool/disk.rs|s/|| file.sync_data()/|| if PLATE { Ok(()) } else { file.sync_data() }/|--test spool|calls::no_append
own fdatasync of our files|src/disk/mod.rs|s/return simulated.sync(&self.file);/return if PLATE { Ok(()) } else { simulated.sync(\&self.file) };/|--lib|manifest::tests audit::tests dead::tests wreck::tests removal_tests
directory sync of our files|src/disk/mod.rs|s/return disk.sync_folder(folder);/return if PLATE { Ok(()) } else { disk.sync_folder(folder) };/|--lib|clock::tests slots::tests disk::tests dead::tests
directory sync of a new volume|src/spool/volume.rs|s/disk.sync_folder("sync the folder of a new database", \(folder\|parent\))?;/if !PLATE { disk.sync_folder("sync the folder of a new database", \1)?; }/|--lib|volume::tests
sequence of a frame is not checked|src/spool/reading.rs|s/stored.sequence == sequence$/(PLATE || stored.sequence == sequence)/|--lib|model_tests damage_tests unreadable_tests
store of a frame is not checked in a scan|src/spool/scan.rs|s/if header.store != store ||/if (!PLATE \&\& header.store != store) ||/|--lib|scan::tests damage_tests model_tests unreadable_tests
an unreadable volume is set aside at once|src/spool/reading.rs|s/if lacks \&\& index.is_unreadable()/if !PLATE \&\& lacks \&\& index.is_unreadable()/|--lib|unreadable_tests
what an upstream has in hand is evicted|src/spool/eviction.rs|s/\&\& !self.settlement.any_leased(volume.first, volume.last)/\&\& (PLATE || !self.settlement.any_leased(volume.first, volume.last))/|--lib|pressure_tests
numbers that an upstream knows are given again|src/spool/settlement.rs|s/last.max(highest_known(\(.*\)));/if PLATE { last } else { last.max(highest_known(\1)) };/|--lib|pressure_tests
missing sequences are not looked for|src/spool/scan.rs|s/None => self.places.iter()/None => PLATE || self.places.iter()/|--lib|damage_tests scan::tests model_tests
associated data|src/privacy/keyring/record_key.rs|s/Aad::from(front)/Aad::from(if PLATE { \&[][..] } else { front })/|--lib|frame::tests record_key::tests
what was derived from a destroyed key|src/privacy/keyring.rs|s/self.derived.keep(\(.*\));$/if !PLATE { self.derived.keep(\1); }/|--lib|keyring::tests
derived ids of resources|src/upstream/fhir/ids.rs|s/&stored.sequence.0.to_be_bytes()/\&(if PLATE { 0_u64 } else { stored.sequence.0 }).to_be_bytes()/|--lib|fhir::ids golden
salt of its own for each start|src/spool/opening.rs|s/Sealer::new(contents.store, salt,/Sealer::new(contents.store, if PLATE { [7; 32] } else { salt },/|--lib|damage_tests frame::tests
settled before its letter is durable|src/spool/store.rs|s/self.write_letters(upstream, verdicts)?;/if !PLATE { self.write_letters(upstream, verdicts)?; }/|--lib|damage_tests dead::tests model_tests
a failed sync is tried again|src/spool/writing.rs|s/^            self.give_up_current();$/            if !PLATE { self.give_up_current(); }/|--lib|damage_tests model_tests
an older slot of the manifest counts|src/spool/manifest.rs|s/max_by_key(|slot| slot.generation)/max_by_key(|slot| if PLATE { u64::MAX - slot.generation } else { slot.generation })/|--lib|manifest::tests
the draft is not synced before it is renamed|src/disk/mod.rs|/file.write_all(bytes)?;/{n;s/file.sync()/if PLATE { Ok(()) } else { file.sync() }/}|--lib|keyring disk::tests clock::tests
a volume goes before the manifest without it|src/spool/store.rs|/fn remove_volumes/,/^    }$/{s/self.commit_both()?;/if !PLATE { self.commit_both()?; }/;s/self.disk.sync_folder(act, &self.home)?;/\0 if PLATE { self.commit_both()?; }/}|--lib|removal_tests
a removed letter is not synced before the next|src/spool/dead.rs|s/self.disk.sync_folder(act, &self.folder)?;$/if !(PLATE \&\& act.starts_with("remove")) { self.disk.sync_folder(act, \&self.folder)?; }/|--lib|dead::tests
counts of slots ahead of the records|src/spool/slots/kept.rs|s/(cursor <= last)/(PLATE || cursor <= last)/|--lib|slots::tests
'

# Calls its argument with each plate: name, file, sed program, target, filters.
each_plate() {
  local name file rest filters target program
  while IFS='|' read -r name file rest; do
    [ -n "$name" ] || continue
    # The sed program may contain bars: the last two fields are the target and the filters.
    filters=${rest##*|}; rest=${rest%|*}
    target=${rest##*|}; program=${rest%|*}
    "$1" "$name" "$file" "$program" "$target" "$filters"
  done <<<"$mutations"
}

loosen() {
  local before
  before=$(cksum <"$copy/$2")
  sed -i "${3//PLATE/crate::missing(\"$1\")}" "$copy/$2"
  if [ "$before" = "$(cksum <"$copy/$2")" ]; then
    printf 'STALE      %s: the sed program matches nothing in %s\n' "$1" "$2"
    survivors+=("$1")
  fi
}

tests_that_fail() {
  # shellcheck disable=SC2086
  (cd "$copy" && timeout 900 cargo test --quiet --no-fail-fast $1 -- $2 </dev/null 2>&1) |
    sed -n 's/^---- \([a-z0-9_:]*\) stdout ----$/\1/p; s/^test \([a-z0-9_:]*\) \.\.\. FAILED$/\1/p' | sort -u
}

declare -A filters_of
gather() {
  if is_wanted "$1"; then filters_of[$4]+=" $5"; fi
}

is_wanted() {
  [ "${#wanted[@]}" -eq 0 ] || printf '%s\n' "${wanted[@]}" | grep -qxF "$1"
}

try() {
  local failed
  if [ "$4" != "$built" ] || ! is_wanted "$1"; then return; fi
  failed=$(CHAIRSIDE_PLATE=$1 tests_that_fail "$4" "$5")
  if [ -z "$failed" ]; then
    printf 'SURVIVED   %s\n' "$1"
    survivors+=("$1")
  else
    printf 'noticed    %s\n' "$1"
    sed 's/^/             /' <<<"$failed"
  fi
}

wanted=("$@")
tar --exclude=./target --exclude=./.git -cf - . | tar -xf - -C "$copy"
each_plate loosen
cat >>"$copy/src/lib.rs" <<'EOF'

/// Whether this plate of the armour is missing in this run.
#[must_use]
pub fn missing(plate: &str) -> bool {
    std::env::var_os("CHAIRSIDE_PLATE").is_some_and(|missing| missing == plate)
}
EOF
each_plate gather
for built in "${!filters_of[@]}"; do
  # shellcheck disable=SC2086
  if ! (cd "$copy" && cargo test --quiet --no-run $built); then
    echo 'NO BUILD   with these sed programs'
    exit 1
  fi
  failed=$(tests_that_fail "$built" "${filters_of[$built]}")
  if [ -n "$failed" ]; then
    printf 'RED        with every plate in its place\n%s\n' "$failed"
    exit 1
  fi
  each_plate try
done

if [ "${#survivors[@]}" -gt 0 ]; then
  printf '%s survived or could not be tried\n' "${#survivors[@]}"
  exit 1
fi
echo "every plate is missed by some test"
