#!/bin/sh
# Assembles boot.asm into boot.bin, 512 bytes. Usage: build.sh [OUT]
set -e
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
as --32 -o "$work/boot.o" boot.asm
ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o "$work/boot.bin" "$work/boot.o"
cat "$work/boot.bin" > "${1:-boot.bin}"
