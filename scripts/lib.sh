# Set-up shared by demo.sh and test.sh, for a Debian 12 machine. Sourced, not run.
#
# What it changes on the machine, and how restore_machine (call it at exit) undoes that:
#   packages     missing ones are installed, and stay; their services are not started
#   hugepages    2 MiB pages are added to those reserved; as many are given back
#   bpffs        /sys/fs/bpf is mounted if it is not; the last user unmounts it
# What is to be undone is kept in files below $SLUICE_STATE, one folder a user: scripts may run at the same time, one
# that was killed is cleaned up after by the next, and a demo that was kept is undone by `demo.sh --stop`.

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
SLUICE_STATES=/run/sluice-setup
SLUICE_STATE=$SLUICE_STATES/$$
HUGEPAGES_FILE=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages
FREE_HUGEPAGES_FILE=/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages
# One worker with its flow table, packet buffers and what DPDK keeps for itself.
HUGEPAGES_LEAST=128
HUGEPAGES_WANTED=$HUGEPAGES_LEAST  # more: for larger tables, which can do without

BUILD_PACKAGES="bpftool clang-14 g++ libbenchmark-dev libboost1.81-dev libbpf-dev libclang-rt-14-dev libcli11-dev
  libdpdk-dev libfmt-dev libgtest-dev libnghttp2-dev libnl-3-dev libnl-route-3-dev librapidcheck-dev libre2-dev libspdlog-dev
  libssl-dev libtomlplusplus-dev libxdp-dev libxxhash-dev libpcap0.8-dev librte-net-af-packet23 librte-net-af-xdp23
  librte-net-null23 librte-net-pcap23 llvm-14 meson ninja-build nlohmann-json3-dev pkgconf"
RUN_PACKAGES="curl dnsmasq-base dpdk-dev ethtool iproute2 iputils-ping nginx openssl procps python3 python3-grpcio python3-pytest python3-scapy
  util-linux wrk"

SECONDS_AT_START=$(date +%s.%N)

step() { printf '[%6.1fs] %s\n' "$(awk -v a="$SECONDS_AT_START" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')" "$*"; }
note() { printf '          %s\n' "$*"; }
die() {
  # One line that says what is wrong, one with the command that mends it.
  printf 'error: %s\n' "$1" >&2
  [ $# -lt 2 ] || printf '  try: %s\n' "$2" >&2
  exit 1
}

require_root() { [ "$(id -u)" = 0 ] || die "$1 needs root: it makes network namespaces and loads XDP programs" "sudo $1"; }

# ---- Packages ---------------------------------------------------------------------------------------------------------

missing_packages() {
  local package
  for package in "$@"; do
    # Exactly "installed": a removed package with its configuration still there is not.
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
  done
}

ensure_packages() {
  local missing
  # shellcheck disable=SC2046,SC2086 # lists of words
  missing=$(missing_packages $BUILD_PACKAGES $RUN_PACKAGES)
  if [ -z "$missing" ]; then
    step "packages: all there"
    return
  fi
  # shellcheck disable=SC2086
  step "packages: installing" $missing
  # Debian starts a service when its package comes in (nginx would take port 80 of this machine); this tells it not to.
  local policy=/usr/sbin/policy-rc.d own_policy=no
  if [ ! -e "$policy" ]; then
    own_policy=yes
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  local log status=0
  log=$(mktemp)
  # shellcheck disable=SC2086
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } \
    >"$log" 2>&1 </dev/null || status=$?
  [ "$own_policy" = no ] || rm -f "$policy"
  if [ "$status" != 0 ]; then
    tail -n 5 "$log" >&2
    rm -f "$log"
    # shellcheck disable=SC2086
    die "apt-get cannot install what is missing" "apt-get update && apt-get install$(printf ' %s' $missing)"
  fi
  rm -f "$log"
}

# ---- Hugepages and bpffs ----------------------------------------------------------------------------------------------

# One at a time: the number of hugepages is read, changed and written.
with_lock() { (
  flock 9
  "$@"
) 9>/run/lock/sluice-setup.lock; }

# Users that were killed before they could clean up. A demo's folder has a name, not a PID: it may be kept.
restore_after_the_dead() {
  local folder
  for folder in "$SLUICE_STATES"/[0-9]*; do
    [ ! -d "$folder" ] || kill -0 "${folder##*/}" 2>/dev/null || with_lock restore_from "$folder"
  done
}

reserve_hugepages() {
  local before after
  mkdir -p "$SLUICE_STATE"
  [ -w "$HUGEPAGES_FILE" ] || return 0
  before=$(cat "$HUGEPAGES_FILE")
  echo $((before + HUGEPAGES_WANTED)) >"$HUGEPAGES_FILE"
  after=$(cat "$HUGEPAGES_FILE")
  echo $((after - before)) >"$SLUICE_STATE/hugepages"
}

# Sets SLUICE_NO_HUGE=1 when they cannot be had.
ensure_hugepages() {
  restore_after_the_dead
  export SLUICE_NO_HUGE=
  # Not those that happen to be free: they are another user's, who may need or return them.
  [ -e "$SLUICE_STATE/hugepages" ] || with_lock reserve_hugepages
  local free
  free=$(cat "$FREE_HUGEPAGES_FILE" 2>/dev/null || echo 0)
  if [ "$free" -ge "$HUGEPAGES_WANTED" ]; then
    step "hugepages: $free of 2 MiB are free"
  elif [ "$free" -ge "$HUGEPAGES_LEAST" ]; then
    step "hugepages: only $free of $HUGEPAGES_WANTED could be had; tables that do not fit lie in transparent ones"
  else
    step "hugepages: only $free of $HUGEPAGES_LEAST could be had; going on with --no-huge (slower)"
    SLUICE_NO_HUGE=1
  fi
}

mount_bpffs() {
  mkdir -p "$SLUICE_STATE"
  [ "$(stat -f -c %T /sys/fs/bpf 2>/dev/null)" != bpf_fs ] || return 0
  mount -t bpf bpf /sys/fs/bpf || return 1
  touch "$SLUICE_STATES/mounted-bpffs"
}

ensure_bpffs() {
  restore_after_the_dead
  with_lock mount_bpffs || die "cannot mount bpffs at /sys/fs/bpf" "mount -t bpf bpf /sys/fs/bpf"
  step "bpffs: at /sys/fs/bpf"
}

restore_from() { # FOLDER
  [ -d "$1" ] || return 0
  if [ -e "$1/hugepages" ]; then
    echo $(($(cat "$HUGEPAGES_FILE") - $(cat "$1/hugepages"))) >"$HUGEPAGES_FILE"
  fi
  rm -rf "$1"
  if [ -z "$(find "$SLUICE_STATES" -mindepth 1 -type d)" ]; then
    [ ! -e "$SLUICE_STATES/mounted-bpffs" ] || umount /sys/fs/bpf
    rm -rf "$SLUICE_STATES"
  fi
}

restore_machine() { with_lock restore_from "$SLUICE_STATE"; }

# ---- Building ---------------------------------------------------------------------------------------------------------

# configure FOLDER MESON-OPTION...: creates build/FOLDER, or brings its options up to date.
configure() {
  local folder=$1 log
  shift
  mkdir -p "$REPOSITORY/build"
  log=$REPOSITORY/build/meson-setup.log
  # Where there is a ccache, Meson uses it unless CXX says otherwise; it saves more, from the second build on, but not of these.
  set -- -Dfrom_scratch="$([ -z "${CXX:-}${CCACHE_DISABLE:-}" ] && command -v ccache >/dev/null && echo false || echo true)" "$@"
  if [ -e "$folder/build.ninja" ]; then
    set -- --reconfigure "$@"
  fi
  if ! meson setup "$folder" "$REPOSITORY" "$@" >"$log" 2>&1; then
    tail -n 15 "$log" >&2
    die "meson cannot configure $folder" "rm -rf $folder   and again; the whole output is in $log"
  fi
}

# compile FOLDER TARGET...: quiet, but for errors; without targets: everything.
compile() {
  local folder=$1 log
  shift
  log=$folder/compile.log
  if ! ninja -C "$folder" "$@" >"$log" 2>&1; then
    grep -E -m 12 '(error|undefined reference|fatal):?' "$log" | cut -c 1-200 >&2 || tail -n 20 "$log" >&2
    die "the build in $folder failed; $log has it all" "ninja -C $folder"
  fi
}
