# The guest of the fault tests: a boot sector that tells by its own disk whether
# another copy of it has run.
#
#   as --32 -o boot.o boot.asm && ld -m elf_i386 -Ttext 0x7c00 --oformat binary -o boot.bin boot.o
#
# At boot it takes a nonce (time-stamp counter and clock), which stays in memory
# and so survives a live migration but no cold boot. It replaces what an earlier
# boot has left in the state sector, and counts the boots there. Then, at every
# second tick of the BIOS clock (9.1 times a second), it reads the state sector,
# demands to see what it wrote last, and writes the next counter. When it sees
# anything else it writes DOUBLE with both to the verdict sector and stands still.
#
# A state is 20 bytes, little endian:
#   0  magic "NVDT"   4  boots   8  nonce   16  counter
# LBA 1 holds the state. LBA 2 holds "DBLE", the own state, the state that was seen.
#
# Each tick also writes 64 KiB of memory above 1 MiB anew, of FILL bytes that were
# filled at boot with what cannot be compressed: so that a migration has work.
#
# COM1 shows "T boots nonce counter" in hex at each tick, "DOUBLE", and "IO" when
# the disk does not answer (it is asked again).

	.intel_syntax noprefix
	.code16
	.globl _start

	.set STATE, 0x0600          # own state, padded to a sector
	.set SEEN, 0x0800           # what was read
	.set PACKET, 0x0a00         # disk address packet
	.set BOOTS, STATE + 4
	.set NONCE, STATE + 8
	.set COUNT, STATE + 16
	.set FROM, 0x100000
	.set FILL, 24 << 20
	.set STEP, 64 << 10

_start:
	cli
	xor ax, ax
	mov ds, ax
	mov es, ax
	mov ss, ax
	mov sp, 0x7c00
	sti
	cld
	mov [drive], dl
	mov di, STATE
	mov cx, 0x300               # STATE, SEEN, PACKET
	rep stosw

	mov dx, 0x3f9               # COM1: no interrupts
	out dx, al
	mov ecx, FILL / 4
	rdtsc
	mov [NONCE], eax
	mov [seed], eax
	call fill
	mov ah, 2                   # the clock: CH hour, CL minute, DH second
	int 0x1a
	mov [NONCE + 4], cx
	mov [NONCE + 6], dx

	mov ah, 0x42                # what an earlier boot has left
	call disk
	mov eax, [SEEN]
	mov edx, 0x5444564e         # "NVDT"
	mov [STATE], edx
	cmp eax, edx
	jne 1f
	mov eax, [SEEN + 4]
	mov [BOOTS], eax
1:	inc dword ptr [BOOTS]
	jmp write

tick:
	mov bx, 2
2:	mov ax, [0x46c]
3:	hlt
	cmp ax, [0x46c]
	je 3b
	dec bx
	jnz 2b
	mov ecx, STEP / 4
	call fill
	mov ah, 0x42
	call disk
	mov si, STATE
	mov di, SEEN
	mov cx, 10
	repe cmpsw
	jne double
	inc dword ptr [COUNT]
write:
	mov ah, 0x43
	call disk
	mov al, 'T'
	call put
	mov eax, [BOOTS]
	call hex
	mov eax, [NONCE + 4]
	call hex
	mov eax, [NONCE]
	call hex
	mov eax, [COUNT]
	call hex
	mov al, 10
	call put
	jmp tick

double:
	mov si, offset said         # shown first: the disk may be no one's any more
4:	lodsb
	call put
	cmp al, 10
	jne 4b
	mov si, SEEN + 18           # behind the own state, from the end
	mov di, SEEN + 42
	mov cx, 10
	std
	rep movsw
	cld
	mov si, STATE
	mov di, SEEN + 4
	mov cx, 10
	rep movsw
	mov dword ptr [SEEN], 0x454c4244 # "DBLE"
	mov ax, 0x4302              # written from SEEN to LBA 2
	call verdict
5:	hlt
	jmp 5b

# disk reads (AH 42) LBA 1 into SEEN or writes (AH 43) LBA 1 from STATE, until it
# works.
disk:
	mov al, 1
	mov di, STATE
	cmp ah, 0x43
	je 6f
verdict:                            # AL: the LBA
	mov di, SEEN
6:	mov si, PACKET
	mov word ptr [si], 0x10
	mov word ptr [si + 2], 1
	mov [si + 4], di
	mov [si + 8], al
	push ax
	xor al, al
	mov dl, [drive]
	int 0x13
	pop ax
	jnc 8f
	push ax
	mov al, 'I'
	call put
	mov al, 'O'
	call put
	mov al, 10
	call put
	pop ax
	jmp 6b

# fill writes ECX dwords where the last call ended, through a 4 GiB segment.
fill:
	cli
	lgdt [gdtr]
	mov eax, cr0
	inc ax
	mov cr0, eax
	mov bx, 8
	mov es, bx
	dec ax
	mov cr0, eax
	xor ax, ax
	mov es, ax
	mov edi, [place]
	mov eax, [seed]
7:	imul eax, eax, 1664525
	add eax, 1013904223
	addr32 stosd
	loopd 7b
	mov [seed], eax
	cmp edi, FROM + FILL
	jb 9f
	mov edi, FROM
9:	mov [place], edi
	sti
8:	ret

# hex shows a space and EAX.
hex:
	mov ecx, 8
	push eax
	mov al, ' '
	call put
	pop eax
1:	rol eax, 4
	push ax
	and al, 15
	cmp al, 10
	sbb al, 0x69
	das
	call put
	pop ax
	loop 1b
	ret

put:
	mov dx, 0x3fd
	push ax
2:	in al, dx
	test al, 0x20
	jz 2b
	pop ax
	mov dl, 0xf8
	out dx, al
	ret

said:	.ascii "DOUBLE\n"
drive:	.byte 0x80
seed:	.long 1
place:	.long FROM
	.balign 4
gdt:	.quad 0
	.quad 0x00cf92000000ffff
gdtr:	.word 15
	.long gdt

	.org 510
	.word 0xaa55
