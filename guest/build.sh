#!/bin/sh
# build.sh OUTDIR: make the small guest image from Debian packages, without root rights and without a loop device.
#
# Makes vmlinuz, initrd.gz and nubila-mini.qcow2 in OUTDIR. Nothing is built when these exist and neither a script here nor
# a package has changed since. The root file system lives in memory; the disk holds the boot loader, kernel, initrd, and a
# small ext4 partition for what must outlive a boot (ssh host keys, which instance's user data has run).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# = 1 ] || { echo "usage: build.sh OUTDIR" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL=C

# What runs in the guest, and the packages with the shared libraries that it needs.
# Not busybox-static: name look-ups of a static program want the very libc that it was built with.
programs="busybox qemu-guest-agent dropbear-bin"
libraries="libc6 libglib2.0-0 libnuma1 liburing2 libudev1 libpcre2-8-0 libcrypt1 libtomcrypt1 libtommath1 libgmp10 zlib1g libselinux1"
modules="virtio_pci virtio_net virtio_blk virtio_console virtio_scsi sd_mod sr_mod virtio_balloon virtio-rng isofs button evdev pvpanic-mmio"
boot_mib=30    # FAT: boot loader, kernel, initrd
data_mib=20    # ext4
cmdline="console=tty0 console=ttyS0 quiet panic=5"

for tool in apt-get modprobe cpio sfdisk mkfs.vfat mcopy syslinux mke2fs qemu-img objdump; do
    command -v "$tool" >/dev/null || { echo "guest image: the program $tool is missing" >&2; exit 1; }
done

kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends: linux-image-[0-9]/ {print $2; exit}')
[ -n "$kernel" ] || { echo "guest image: apt knows no linux-image-cloud-amd64; run 'apt-get update'" >&2; exit 1; }

# Of each package: its file name (with the version) and checksum. Where it comes from is no input.
# shellcheck disable=SC2086
packages=$(apt-get download --print-uris -qq "$kernel" $programs $libraries | awk '{print $2, $4}' | sort)
inputs=$( { echo "$packages"; cd "$here"; find build.sh root -type f | sort | xargs sha256sum; } | sha256sum | cut -c1-64)
if [ -f "$out/inputs" ] && [ "$(cat "$out/inputs")" = "$inputs" ] &&
    [ -f "$out/vmlinuz" ] && [ -f "$out/initrd.gz" ] && [ -f "$out/nubila-mini.qcow2" ]; then
    echo "guest image: unchanged ($kernel)"
    exit 0
fi

work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
mkdir "$work/deb" "$work/x" "$work/root"
chmod 755 "$work/root"

cd "$work/deb"
# As root, apt says that its download user cannot read this directory; it then downloads as root, which is fine.
# shellcheck disable=SC2086
apt-get download -qq "$kernel" $programs $libraries 2>apt.err || { cat apt.err >&2; exit 1; }
for deb in *.deb; do dpkg-deb -x "$deb" ../x; done
cd "$work"

# --- the root file system
cp -R "$here/root/." root/
chmod -R u=rwX,go=rX root
chmod 755 root/etc/boot root/etc/halt root/etc/acpi/PWRF/00000080 root/sbin/*
mkdir -p root/bin root/dev root/proc root/sys root/run root/tmp root/data root/mnt root/usr/sbin root/lib64 \
    root/root/.ssh root/modules root/lib/x86_64-linux-gnu
chmod 700 root/root root/root/.ssh
chmod 1777 root/tmp
cp x/bin/busybox root/bin/
ln -s bin/busybox root/init
mkdir root/var
ln -s /run root/var/run
cp x/usr/sbin/qemu-ga x/usr/sbin/dropbear x/usr/bin/dropbearkey root/usr/sbin/

# Shared libraries: all that the programs need, and what those need in turn, from the packages and never from this host.
todo="x/bin/busybox x/usr/sbin/qemu-ga x/usr/sbin/dropbear x/usr/bin/dropbearkey"
while [ -n "$todo" ]; do
    next=
    for file in $todo; do
        for lib in $(objdump -p "$file" | awk '/NEEDED/ {print $2}'); do
            [ -e "root/lib/x86_64-linux-gnu/$lib" ] && continue
            path=$(find x/lib x/usr/lib -name "$lib" | head -n 1)
            [ -n "$path" ] || { echo "guest image: no package here has $lib" >&2; exit 1; }
            cp -L "$path" "root/lib/x86_64-linux-gnu/$lib"
            next="$next $path"
        done
    done
    todo=$next
done
cp -L "$(find x/lib -name ld-linux-x86-64.so.2 | head -n 1)" root/lib64/

# Kernel modules, numbered in the order in which they must be loaded.
version=$(ls x/lib/modules)
cp "x/boot/vmlinuz-$version" vmlinuz
depmod -b x "$version"
n=100
for file in $(for m in $modules; do modprobe -d "$work/x" -S "$version" --show-depends "$m"; done |
    awk '$1 == "insmod" && !seen[$2]++ {print $2}'); do
    n=$((n + 1))
    cp "$file" "root/modules/$n-$(basename "$file")"
done

find root -exec touch -h -d @0 {} +
(cd root && find . | sort | cpio -o -H newc -R 0:0 --reproducible --quiet | gzip -9n >../initrd.gz)

# --- the disk: MBR, FAT with syslinux, ext4
first=2048 # sectors
second=$((first + boot_mib * 2048))
truncate -s $((1 + boot_mib + data_mib + 1))M disk
printf 'label: dos\nlabel-id: 0x6e756269\nstart=%s, size=%s, type=c, bootable\nstart=%s, size=%s, type=83\n' \
    "$first" $((boot_mib * 2048)) "$second" $((data_mib * 2048)) | sfdisk -q disk
dd if=/usr/lib/syslinux/mbr/mbr.bin of=disk conv=notrunc bs=440 count=1 status=none
cat >syslinux.cfg <<CFG
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
 LINUX vmlinuz
 INITRD initrd.gz
 APPEND $cmdline
CFG
mkfs.vfat -C fat $((boot_mib * 1024)) -n BOOT -i 6e756269 -h "$first" >/dev/null
mcopy -i fat vmlinuz initrd.gz syslinux.cfg ::
syslinux --install fat
dd if=fat of=disk bs=1M seek=1 conv=notrunc,sparse status=none
mke2fs -q -t ext4 -L nubila-data -E "offset=$((second * 512))" disk ${data_mib}M
qemu-img convert -f raw -O qcow2 -c disk nubila-mini.qcow2

mv vmlinuz initrd.gz nubila-mini.qcow2 "$out/"
echo "$inputs" >"$out/inputs"
echo "guest image: built from $kernel, $(du -k "$out/nubila-mini.qcow2" | cut -f1) KiB"
