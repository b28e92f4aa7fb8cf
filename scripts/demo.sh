#!/usr/bin/env bash
# Shows Sluice at work on a small network of namespaces on this machine: two clients, the balancer, three nginx.
#
#   sudo ./scripts/demo.sh               about a minute; exit status 0 if every observation is what it should be
#   sudo ./scripts/demo.sh --keep        leaves it running and says what to try
#   sudo ./scripts/demo.sh --stop        ends a demo that was kept (or killed)
#   sudo ./scripts/demo.sh --json FILE   writes the observations
#
# Sets up what a fresh Debian 12 needs (scripts/lib.sh says what, and undoes it at the end), builds in build/.
set -eu -o pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit "$1"
}

keep= stop= json=
while [ $# -gt 0 ]; do
  case $1 in
    --keep) keep=1 ;;
    --stop) stop=1 ;;
    --json)
      [ $# -ge 2 ] || usage 2
      json=$(realpath -m "$2")
      shift
      ;;
    -h | --help) usage 0 ;;
    *) usage 2 ;;
  esac
  shift
done

require_root "$0"
# By name, so that --stop finds it.
SLUICE_STATE=$SLUICE_STATES/demo
DEMO=("/usr/bin/python3" "$REPOSITORY/scripts/demo.py" --started "$SECONDS_AT_START")

if [ -n "$stop" ]; then
  "${DEMO[@]}" --stop
  restore_machine
  step "the machine is as it was"
  exit
fi
if ip netns list 2>/dev/null | grep -q '^sluice-demo-'; then
  die "a demo is running already, or was killed" "$0 --stop"
fi

leave() {
  local status=$?
  # What is kept needs its hugepages; --stop gives them back.
  if [ -n "$keep" ] && ip netns list 2>/dev/null | grep -q '^sluice-demo-'; then
    return "$status"
  fi
  restore_machine
}
trap leave EXIT
trap 'exit 130' INT TERM

step "sluice demo: $REPOSITORY"
restore_machine  # of a demo that was killed before it made its network
ensure_packages
ensure_bpffs
ensure_hugepages
step "build: $REPOSITORY/build"
configure "$REPOSITORY/build" --buildtype=release -Dnative=true
compile "$REPOSITORY/build" bpf/sluice-decap bpf/steer.bpf.o dataplane/sluice-dataplane \
  controlplane/{sluiced,sluice}
status=0
"${DEMO[@]}" ${keep:+--keep} ${json:+--json "$json"} || status=$?
exit "$status"
