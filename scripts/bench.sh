#!/usr/bin/env bash
# Builds and runs the benchmarks: one table, in TSC cycles, beside the floor that DPDK's testpmd sets on this machine.
#
#   sudo ./scripts/bench.sh                      everything
#   sudo ./scripts/bench.sh --filter pipeline    what matches a regular expression
#   sudo ./scripts/bench.sh --json FILE          the rows as JSON as well
#   sudo ./scripts/bench.sh --help               the other options
#
# Keep the machine idle while it runs. Builds in build/, for this very CPU.
set -eu -o pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

case "${1:-}" in
  -h | --help) exec "$REPOSITORY/perf/report.py" --help ;;
esac
require_root "$0"
BUILD=$REPOSITORY/build
BUILD_PACKAGES+=" dpdk-dev"  # testpmd
trap restore_machine EXIT
trap 'exit 130' INT TERM

step "sluice benchmarks: $REPOSITORY, $(nproc) CPUs"
ensure_packages
ensure_hugepages
step "build: $BUILD"
configure "$BUILD" --buildtype=release -Dnative=true
compile "$BUILD" perf/{pipeline,hash,maglev,publish}_bench controlplane/{sluiced,sluice} dataplane/sluice-dataplane
step "running, some minutes; the load average is $(cut -d' ' -f1 /proc/loadavg)"
"$REPOSITORY/perf/report.py" "$BUILD" --programs "$BUILD" ${SLUICE_NO_HUGE:+--no-huge} "$@"
step "done"
