#!/usr/bin/env bash
# Installs what a Debian 12 machine lacks to build, test and demonstrate
# NovaCron. Usage: install.sh. Does nothing when all is there.
set -euo pipefail
packages=(libvirt-daemon-system libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils
  ovmf seabios ipxe-qemu iptables iproute2 dnsmasq-base busybox-static mtools syslinux procps psmisc
  ca-certificates make git)
missing=()
for p in "${packages[@]}"; do
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  # The guest's kernel is looked up in the package lists.
  [ -n "$(apt-cache depends linux-image-cloud-amd64 2>/dev/null)" ] || apt-get update -q
  exit 0
fi
[ "$(id -u)" = 0 ] || { echo "install.sh: run as root to install: ${missing[*]}" >&2; exit 1; }
echo "installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# The daemons are started by the lab, not by the packages.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ] && [ ! -d /run/systemd/system ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy"
  trap 'rm -f "$log" "$policy"' EXIT
fi
for try in 1 2 3; do
  if apt-get update -q >"$log" 2>&1 && apt-get install -q -y --no-install-recommends "${missing[@]}" >>"$log" 2>&1; then
    exit 0
  fi
  echo "install.sh: attempt $try failed" >&2
  sleep 5
done
tail -n 40 "$log" >&2
exit 1
