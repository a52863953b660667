#!/usr/bin/env bash
# Serves the chat on two hosts, which are network namespaces of this machine, with a NATS between them. Ctrl-C ends all.
#
# hosts.sh COHORTD     by this program; takes root, iproute2 and nats-server
set -euo pipefail

cohortd=$(realpath "$1")
chat=$(realpath "$(dirname "${BASH_SOURCE[0]}")")
net=cohortd-demo
prefix=10.77.7
[ "$(id -u)" = 0 ] || { echo "error: network namespaces take root: sudo make demo-hosts" >&2; exit 1; }

folder=$(mktemp -d)
chmod 755 "$folder"
pids=()
end() {
  trap - EXIT
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait
  for host in 1 2; do ip netns del "$net-$host" 2>/dev/null || true; done
  ip link del "$net" 2>/dev/null || true
  rm -rf "$folder"
}
trap end EXIT
trap 'exit 0' INT TERM

ip link add "$net" type bridge
ip addr add "$prefix.254/24" dev "$net"
ip link set "$net" up
nats-server -a "$prefix.254" -l "$folder/nats.log" &
pids+=($!)
for host in 1 2; do
  space=$net-$host
  ip netns add "$space"
  ip link add "$net$host" type veth peer name eth0 netns "$space"
  ip link set "$net$host" master "$net" up
  ip -n "$space" link set lo up
  ip -n "$space" addr add "$prefix.$host/24" dev eth0
  ip -n "$space" link set eth0 up
  cat >"$folder/chat$host.toml" <<TOML
exec = ["node", "server.js"]
directory = "$chat"
listen = ["8080"]
workers = 2
[relay]
bus = "nats://$prefix.254"
host = "host$host"
channel = "demo"
TOML
  # The workers need no root: they are of whoever has called sudo.
  nsenter --net="/run/netns/$space" -- setpriv --reuid="${SUDO_UID:-0}" --regid="${SUDO_GID:-0}" --clear-groups -- \
    "$cohortd" run "$folder/chat$host.toml" &
  pids+=($!)
done
echo "host1: http://$prefix.1:8080/   host2: http://$prefix.2:8080/   Open both: what is said on one is read on the other."
wait
