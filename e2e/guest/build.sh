#!/usr/bin/env bash
# Builds the small guest of the demo and of the end-to-end tests:
#   vmlinuz      a Debian cloud kernel
#   initrd.gz    static busybox, a few modules and init (see there)
#   tick.qcow2   the same as a disk that boots by itself (BIOS, syslinux)
# Usage: build.sh OUTDIR. Does nothing when OUTDIR is up to date.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=$(mkdir -p "$1" && cd "$1" && pwd)
stamp=$(cat "$here/build.sh" "$here/init" | sha256sum | cut -d' ' -f1)
[ -f "$out/tick.qcow2" ] && [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/{print $2; exit}')
[ -n "$package" ] || { echo "no package linux-image-cloud-amd64 in the package lists: run apt-get update" >&2; exit 1; }
apt-get download -o APT::Sandbox::User=root "$package" >/dev/null
dpkg -x "$package"_*.deb kernel
version=${package#linux-image-}
modules=kernel/lib/modules/$version/kernel

mkdir -p root/{bin,dev,proc,sys,mnt,tmp,run,seed,etc,lib/modules,usr/share/udhcpc}
cp "$(command -v busybox)" root/bin/busybox
# The order is the order of loading.
for m in drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_modern_dev \
  drivers/virtio/virtio_pci_legacy_dev drivers/virtio/virtio_pci drivers/block/virtio_blk net/core/failover \
  drivers/net/net_failover drivers/net/virtio_net drivers/virtio/virtio_balloon drivers/char/hw_random/rng-core \
  drivers/char/hw_random/virtio-rng drivers/acpi/button drivers/input/evdev drivers/cdrom/cdrom fs/isofs/isofs; do
  [ -f "$modules/$m.ko" ] || continue
  cp "$modules/$m.ko" root/lib/modules/
  basename "$m" >> root/lib/modules/order
done
install -m 0755 "$here/init" root/init
(cd root && find . -print0 | sort -z | busybox xargs -0 -n1 echo | busybox cpio -o -H newc 2>/dev/null | gzip -9n > ../initrd.gz)
cp "kernel/boot/vmlinuz-$version" vmlinuz

# A FAT disk without partitions, with syslinux in its boot sector.
size_kib=$(( ($(stat -c %s vmlinuz) + $(stat -c %s initrd.gz)) / 1024 + 4096 ))
truncate -s "${size_kib}K" disk.raw
mformat -i disk.raw -v TICK -h 64 -s 32 ::
cat > syslinux.cfg <<'CFG'
SERIAL 0 115200
DEFAULT tick
PROMPT 0
LABEL tick
  KERNEL vmlinuz
  INITRD initrd.gz
  APPEND console=ttyS0,115200 quiet panic=1
CFG
mcopy -i disk.raw vmlinuz initrd.gz syslinux.cfg ::
syslinux --install disk.raw
qemu-img convert -f raw -O qcow2 disk.raw tick.qcow2
mv vmlinuz initrd.gz tick.qcow2 "$out/"
echo "$stamp" > "$out/stamp"
