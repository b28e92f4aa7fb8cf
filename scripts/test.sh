#!/usr/bin/env bash
# Builds and runs every test; the last line is "N passed, N failed", and the exit status is 0 if nothing failed.
#
#   sudo ./scripts/test.sh                   everything
#   sudo ./scripts/test.sh --only unit,bpf   some groups (see --list)
#   SLUICE_WERROR=1                          compiler warnings are errors (as in CI)
#
# Sets up what a fresh Debian 12 needs (scripts/lib.sh says what, and undoes it at the end), builds below build/.
set -eu -o pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

GROUPS_ALL=(unit property race bench-smoke bpf asan tsan fuzz packet system)
usage() {
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit "$1"
}

only=
while [ $# -gt 0 ]; do
  case $1 in
    --only)
      [ $# -ge 2 ] || usage 2
      only=,$2,
      shift
      ;;
    --list) printf '%s\n' "${GROUPS_ALL[@]}" && exit 0 ;;
    -h | --help) usage 0 ;;
    *) usage 2 ;;
  esac
  shift
done
wanted() { [ -z "$only" ] || [[ $only == *,$1,* ]]; }
for group in $(tr , ' ' <<<"$only"); do
  [[ " ${GROUPS_ALL[*]} " == *" $group "* ]] || die "no test group '$group'" "$0 --list"
done

require_root "$0"
BUILD=$REPOSITORY/build
RESULTS=$BUILD/test-results
WERROR=-Dwerror=false
[ -z "${SLUICE_WERROR:-}" ] || WERROR=-Dwerror=true

trap restore_machine EXIT
trap 'exit 130' INT TERM

step "sluice tests: $REPOSITORY, $(nproc) CPUs"
ensure_packages
ensure_bpffs
ensure_hugepages
rm -rf "$RESULTS"
mkdir -p "$RESULTS"

runner() {
  /usr/bin/python3 "$REPOSITORY/scripts/test_runner.py" "$1" --results "$RESULTS" --started "$SECONDS_AT_START" "${@:2}"
}

# Test executables of one build folder, by Meson suite: whatever is registered is built and run.
#   meson_group GROUP FOLDER SUITE...
meson_group() {
  local group=$1 folder=$2 targets
  shift 2
  targets=$(runner targets --build "$folder" "$@")
  [ -n "$targets" ] || die "no test is registered for the group '$group' in $folder"
  # shellcheck disable=SC2086
  compile "$folder" $targets
  runner meson --group "$group" --build "$folder" "$@"
}

step "build: $BUILD"
configure "$BUILD" --buildtype=release -Dnative=true $WERROR
compile "$BUILD"

for suite in unit property race bench-smoke bpf; do
  if wanted "$suite"; then
    meson_group "$suite" "$BUILD" "$suite"
  fi
done

# The sanitizer builds leave out what they do not run, and are built for one run: little optimization. Clang without any
# compiles the instrumented control plane in a quarter of GCC's time (it finds libbpf's macros not to be C++).
if wanted asan; then
  step "build: $BUILD/asan (AddressSanitizer, UndefinedBehaviorSanitizer)"
  CC=clang-14 CXX=clang++-14 configure "$BUILD/asan" -Ddebug=false -Doptimization=0 \
    -Dcpp_args='-gline-tables-only -Wno-gnu-statement-expression -Wno-c99-extensions' \
    -Ddpdk=false -Dbpf=false -Db_sanitize=address,undefined -Db_lundef=false $WERROR
  export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1
  export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
  meson_group asan "$BUILD/asan" unit
  compile "$BUILD/asan" dataplane/sluice-replay
  SLUICE_BUILD=$BUILD/asan runner pytest --group asan-packet --folder "$REPOSITORY/tests/packet" --parallel
fi
if wanted tsan; then
  step "build: $BUILD/tsan (ThreadSanitizer)"
  configure "$BUILD/tsan" --buildtype=debug -Doptimization=1 -Ddpdk=false -Dbpf=false -Db_sanitize=thread $WERROR
  TSAN_OPTIONS=halt_on_error=1 meson_group tsan "$BUILD/tsan" race
fi
if wanted fuzz; then
  step "build: $BUILD/fuzz (libFuzzer)"
  CC=clang-14 CXX=clang++-14 configure "$BUILD/fuzz" -Ddebug=false -Doptimization=1 -Ddpdk=false -Dbpf=false \
    -Dcpp_args='-gline-tables-only -Wno-gnu-statement-expression -Wno-c99-extensions' -Dfuzz=true -Db_lundef=false $WERROR
  meson_group fuzz "$BUILD/fuzz" fuzz
fi
if wanted packet; then
  SLUICE_BUILD=$BUILD runner pytest --group packet --folder "$REPOSITORY/tests/packet" --parallel
fi
if wanted system; then
  SLUICE_BUILD=$BUILD runner pytest --group system --folder "$REPOSITORY/tests/system"
fi

runner summary
