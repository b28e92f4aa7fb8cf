#!/usr/bin/env bash
# Builds and runs the benchmarks: one table, everything beside its floor of the same run; a report with plots in build/perf/.
#
#   sudo ./scripts/bench.sh                    everything, half an hour or so
#   sudo ./scripts/bench.sh --quick            some minutes: nothing above 10 million flows
#   sudo ./scripts/bench.sh --only PATTERN     what matches a regular expression, and what it is compared with
#   sudo ./scripts/bench.sh --list             the names
#   sudo ./scripts/bench.sh --json FILE        the rows as JSON as well
#
# Keep the machine idle while it runs. Builds in build/, for this very CPU. docs/performance.md says how to read the figures.
set -eu -o pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

listing=
for word in "$@"; do
  case $word in
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    --list) listing=yes ;;
  esac
done
require_root "$0"
BUILD=$REPOSITORY/build
BUILD_PACKAGES+=" python3-matplotlib"  # plots
report() { /usr/bin/python3 "$REPOSITORY/perf/report.py" "$BUILD" "$@"; }

build() {
  step "sluice benchmarks: $REPOSITORY, $(nproc) CPUs"
  ensure_packages
  step "build: $BUILD"
  configure "$BUILD" --buildtype=release -Dnative=true
  compile "$BUILD" perf/{change,flow_table,hash,health,maglev,parse,pipeline,publish}_bench \
    perf/pktgen/{libsluice_pktgen.so,core-distance} controlplane/{sluiced,sluice} dataplane/sluice-dataplane
}

if [ -n "$listing" ]; then
  build >&2
  report "$@"
  exit
fi

trap restore_machine EXIT
trap 'exit 130' INT TERM
build
# As many as the largest tables take, but at most half of the memory that there is.
HUGEPAGES_WANTED=$(report --hugepages "$@")
most=$(awk '/^MemAvailable:/ { print int($2 / 2 / 2048) }' /proc/meminfo)
[ "$HUGEPAGES_WANTED" -le "$most" ] || HUGEPAGES_WANTED=$most
ensure_hugepages
ensure_bpffs
step "running; the load average is $(cut -d' ' -f1 /proc/loadavg)"
status=0
report ${SLUICE_NO_HUGE:+--no-huge} "$@" || status=$?
step "done"
exit "$status"
