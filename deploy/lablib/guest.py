"""Guests that tests and the demo boot: one of 133 bytes, and a small Linux. Made without network or tools.

Both write `TICK <n>` lines to the first serial port, n counting from 0 at boot: with the serial port on a
file of the host, that file shows when and where a guest really ran. Both power off on an ACPI shutdown
(the domain needs <features><acpi/></features>).

- `tick.img`: a boot sector, ready 0.1 s after its QEMU; a line per timer tick (55 ms), asleep in
  between. `deaf.img` is the same but ignores the power button. Use as a virtio disk, raw, with <readonly/>
  and <shareable/>, so that any number of domains may boot from one file (IDE refuses read-only disks).
- `full.img`: the same, in 64 MiB that it fills first, a word in every page, so that a migration has something
  to copy. `restless.img` also changes every page at every tick, faster than any migration copies.
- `off.img`, `fault.img`, `reboot.img` and `panic.img` end by themselves a second after they began: they power
  off (ACPI), triple-fault, restart by the keyboard controller, or tell a pvpanic device that they panicked.
- `echo.img` writes READY, and then what it reads from each of two serial ports; `flood.img` writes TICK lines
  as fast as the port takes them.
- `vmlinuz` and `initramfs.gz`: Debian's or Ubuntu's own kernel with a static busybox; a line every 100 ms.
  Direct kernel boot with `console=ttyS0 quiet` and 96 MiB or more.
"""

from __future__ import annotations

import gzip
import lzma
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

IMAGE_BYTES = 1 << 20  # SeaBIOS reads no disk shorter than a cylinder (504 KiB); the rest is sparse


class GuestError(Exception):
    """What is missing on this machine, and the package that has it."""


@dataclass(frozen=True)
class Guests:
    tick: Path
    deaf: Path
    full: Path
    restless: Path
    kernel: Path
    initramfs: Path


# 16-bit code at 0000:7c00. ebp counts; 046c is the BIOS' timer tick count, 18.2 a second; 3f8 is COM1.
# 600, 602 and 604 are the status, enable and control registers of ACPI power management where SeaBIOS
# puts them on both machine types (pc and q35); without ACPI they read as ones.
_CODE = bytes.fromhex(
    "fa"  # 7c00        cli
    "31c0"  # 7c01      xor  ax, ax
    "8ed8"  # 7c03      mov  ds, ax
    "8ed0"  # 7c05      mov  ss, ax
    "bc007c"  # 7c07    mov  sp, 7c00
    "ea0f7c0000"  # 7c0a jmp 0000:main
    "fb"  # 7c0f main:  sti
    "ba0206"  # 7c10    mov  dx, 602
    "b80001"  # 7c13    mov  ax, 100            the power button shall be reported
    "ef"  # 7c16        out  dx, ax
    "6631ed"  # 7c17    xor  ebp, ebp
    "be807c"  # 7c1a line: mov si, text
    "b105"  # 7c1d      mov  cl, 5
    "ac"  # 7c1f next:  lodsb
    "e84e00"  # 7c20    call put
    "fec9"  # 7c23      dec  cl
    "75f8"  # 7c25      jnz  next
    "6689e8"  # 7c27    mov  eax, ebp
    "6645"  # 7c2a      inc  ebp
    "66bb0a000000"  # 7c2c mov ebx, 10
    "6631d2"  # 7c32 digit: xor edx, edx
    "66f7f3"  # 7c35    div  ebx
    "52"  # 7c38        push dx                 the last digit first
    "fec1"  # 7c39      inc  cl
    "6685c0"  # 7c3b    test eax, eax
    "75f2"  # 7c3e      jnz  digit
    "58"  # 7c40 emit:  pop  ax
    "0430"  # 7c41      add  al, '0'
    "e82b00"  # 7c43    call put
    "fec9"  # 7c46      dec  cl
    "75f6"  # 7c48      jnz  emit
    "b00a"  # 7c4a      mov  al, newline
    "e82200"  # 7c4c    call put
    "8a1e6c04"  # 7c4f  mov  bl, [46c]
    "f4"  # 7c53 rest:  hlt
    "3a1e6c04"  # 7c54  cmp  bl, [46c]
    "74f9"  # 7c58      je   rest
    "ba0006"  # 7c5a    mov  dx, 600
    "ed"  # 7c5d        in   ax, dx
    "83f8ff"  # 7c5e    cmp  ax, -1
    "74b7"  # 7c61      je   line
    "f6c401"  # 7c63    test ah, 1              was the button pressed?
    "74b2"  # 7c66      jz   line
    "ba0406"  # 7c68    mov  dx, 604
    "b80020"  # 7c6b    mov  ax, 2000           sleep type 0: power off
    "ef"  # 7c6e        out  dx, ax
    "eba9"  # 7c6f      jmp  line
    "50"  # 7c71 put:   push ax
    "bafd03"  # 7c72    mov  dx, 3fd
    "ec"  # 7c75 full:  in   al, dx
    "a820"  # 7c76      test al, 20             transmitter empty?
    "74fb"  # 7c78      jz   full
    "58"  # 7c7a        pop  ax
    "baf803"  # 7c7b    mov  dx, 3f8
    "ee"  # 7c7e        out  dx, al
    "c3"  # 7c7f        ret
    "5449434b20"  # 7c80 text: "TICK "
)
_JUMP_IF_NOT_PRESSED = 0x66  # offset of `jz line`; as `jmp line` (eb) the button is never looked at

# What fills the memory stands behind it, at 7c90, and is run before main. A protected segment of 4 GiB stays
# in ds when the processor is back in real mode.
_FILL_AT = 0x90
_FILL = bytes.fromhex(
    "0f0116d97c"  # 7c90       lgdt [table]
    "0f20c0"  # 7c95           mov  eax, cr0
    "0c01"  # 7c98             or   al, 1
    "0f22c0"  # 7c9a           mov  cr0, eax
    "bb0800"  # 7c9d           mov  bx, 8
    "8edb"  # 7ca0             mov  ds, bx
    "24fe"  # 7ca2             and  al, fe
    "0f22c0"  # 7ca4           mov  cr0, eax
    "31db"  # 7ca7             xor  bx, bx
    "8edb"  # 7ca9             mov  ds, bx
    "e80500"  # 7cab           call fill
    "ea0f7c0000"  # 7cae       jmp  0000:main
    "66bf00002000"  # 7cb3 fill: mov edi, 2 MiB
    "6766ff07"  # 7cb9 page:   inc  dword [edi]
    "6681c700100000"  # 7cbd   add  edi, 4096
    "6681ff0000c003"  # 7cc4   cmp  edi, 60 MiB
    "72ec"  # 7ccb             jb   page
    "c3"  # 7ccd               ret
    "e8e2ff"  # 7cce again:    call fill
    "8a1e6c04"  # 7cd1         mov  bl, [46c]
    "c3"  # 7cd5               ret
    "000000"  # 7cd6
    "1700"  # 7cd9 table:      its length, and where it is
    "df7c0000"  # 7cdb
    "0000000000000000"  # 7cdf
    "ffff00000092cf00"  # 7ce7 segment 8: all memory, data
    "0000000000000000"  # 7cef
)
_JUMP_TO_MAIN = slice(0x0A, 0x0F)
_JUMP_TO_FILL = bytes.fromhex("ea907c0000")
_LOOK_AT_CLOCK = slice(0x4F, 0x53)
_CALL_AGAIN = bytes.fromhex("e87c0090")  # call again; nop

_NEVER_REST = bytes.fromhex("e9c8ff90")  # jmp line, where the clock would be looked at

# Asleep between timer ticks; its ports have FIFOs of 16 bytes, so it reads some 300 bytes a second of each.
# Where there is no port, ff is read.
_ECHO = bytes.fromhex(
    "fa31c08ed88ed0bc007cfb"  # 7c00       cli; ax, ds, ss = 0; sp = 7c00; sti
    "bafa03b001ee"  # 7c0b                 mov dx, 3fa; mov al, 1; out dx, al
    "bafa02ee"  # 7c11                     mov dx, 2fa; out dx, al
    "be467c"  # 7c15                       mov si, text
    "ac84c07406"  # 7c18 next:             lodsb; test al, al; jz rest
    "baf803eeebf5"  # 7c1d                 mov dx, 3f8; out dx, al; jmp next
    "f4"  # 7c23 rest:                     hlt
    "bafd03eca8017407"  # 7c24 drain:      mov dx, 3fd; in al, dx; test al, 1; jz second
    "baf803eceeebf1"  # 7c2c               mov dx, 3f8; in al, dx; out dx, al; jmp drain
    "bafd02ec3cff74e8"  # 7c33 second:     mov dx, 2fd; in al, dx; cmp al, ff; je rest
    "a80174e4"  # 7c3b                     test al, 1; jz rest
    "baf802eceeebed"  # 7c3f               mov dx, 2f8; in al, dx; out dx, al; jmp second
    "52454144590a00"  # 7c46 text:         READY
)

# Waits `%02x` timer ticks, then ends as one of ENDINGS says, and if that did nothing sleeps for ever.
_ENDING = (
    "fa31c08ed88ed0bc007cfb"  # cli; ax, ds, ss = 0; sp = 7c00; sti
    "8a1e6c0480c3%02x"  # mov bl, [46c]; add bl, ticks
    "f43a1e6c0475f9"  # hlt; cmp bl, [46c]; jne back
    "%s"
    "f4ebfd"  # hlt; jmp back
)
ENDINGS = {
    "off": "ba0406b80020ef",  # mov dx, 604; mov ax, 2000; out dx, ax
    "fault": "0f011e807ccc",  # lidt [7c80], where all is zero; int3
    "reboot": "b0fee664",  # mov al, fe; out 64, al
    "panic": "ba0505b001ee",  # mov dx, 505; mov al, 1; out dx, al
}
ENDS_AFTER_TICKS = 18

TICKS = """\
n=0
while :; do
    echo "TICK $n" > /dev/ttyS0
    n=$((n + 1))
    usleep 100000
done
"""
_INIT = f"""\
#!/bin/sh
/bin/busybox mkdir -p /proc /sys /dev /etc/acpi/PWRF /tmp
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
while read -r module; do insmod "/modules/$module" || echo "no $module"; done < /modules/order
printf '#!/bin/sh\\npoweroff -f\\n' > /etc/acpi/PWRF/00000080
chmod +x /etc/acpi/PWRF/00000080
acpid -l /dev/null -c /etc/acpi
{TICKS}"""
_PT_INTERP = 3
# The power button and its events; disk and network for tests that want them.
_MODULES = ("button", "evdev", "virtio_pci", "virtio_blk", "virtio_net")


def make(directory: Path) -> Guests:
    """All of them. GuestError if the kernel or busybox is not installed; the boot sectors are made first."""
    directory.mkdir(parents=True, exist_ok=True)
    guests = Guests(
        tick=directory / "tick.img",
        deaf=directory / "deaf.img",
        full=directory / "full.img",
        restless=directory / "restless.img",
        kernel=directory / "vmlinuz",
        initramfs=directory / "initramfs.gz",
    )
    _write_image(guests.tick, boot_sector())
    _write_image(guests.deaf, boot_sector(deaf=True))
    _write_image(guests.full, boot_sector(full=True))
    _write_image(guests.restless, boot_sector(full=True, restless=True))
    _write_image(directory / "echo.img", echo_sector())
    _write_image(directory / "flood.img", boot_sector(flood=True))
    for how in ENDINGS:
        _write_image(directory / f"{how}.img", ending_sector(how))
    kernel, release = find_kernel()
    shutil.copyfile(kernel, guests.kernel)
    guests.initramfs.write_bytes(initramfs(release))
    return guests


def boot_sector(
    *, deaf: bool = False, full: bool = False, restless: bool = False, flood: bool = False
) -> bytes:
    code = bytearray(_CODE)
    if flood:
        code[_LOOK_AT_CLOCK] = _NEVER_REST
    if full:
        code = code.ljust(_FILL_AT, b"\0") + _FILL
        code[_JUMP_TO_MAIN] = _JUMP_TO_FILL
    if restless:
        code[_LOOK_AT_CLOCK] = _CALL_AGAIN
    if deaf:
        assert code[_JUMP_IF_NOT_PRESSED] == 0x74, "the patch must hit the jz"
        code[_JUMP_IF_NOT_PRESSED] = 0xEB
    return bytes(code).ljust(510, b"\0") + b"\x55\xaa"


def echo_sector() -> bytes:
    return _ECHO.ljust(510, b"\0") + b"\x55\xaa"


def ending_sector(how: str) -> bytes:
    code = bytes.fromhex(_ENDING % (ENDS_AFTER_TICKS, ENDINGS[how]))
    return code.ljust(510, b"\0") + b"\x55\xaa"


def find_kernel() -> tuple[Path, str]:
    """The newest kernel with modules, cloud kernels first, and its release."""
    found = []
    for path in Path("/boot").glob("vmlinuz-*"):
        release = path.name.removeprefix("vmlinuz-")
        if (Path("/lib/modules") / release / "modules.dep").exists():
            found.append(("cloud" in release, path.stat().st_mtime, path, release))
    if not found:
        raise GuestError(
            "no kernel in /boot: apt-get install linux-image-cloud-amd64 (Ubuntu: linux-image-virtual)"
        )
    _, _, kernel, release = max(found)
    return kernel, release


def initramfs(release: str) -> bytes:
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        raise GuestError("no busybox: apt-get install busybox-static")
    if _needs_loader(busybox.read_bytes()):
        raise GuestError("busybox is not static: apt-get install busybox-static")
    modules = modules_in_order(Path("/lib/modules") / release, _MODULES)
    archive = Cpio()
    for name in ("bin", "modules", "dev", "proc", "sys", "etc"):
        archive.add(name, stat.S_IFDIR | 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    archive.add("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    archive.add("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    archive.add("init", stat.S_IFREG | 0o755, _INIT.encode())
    module_files(archive, modules, "order")
    return gzip.compress(archive.finish(), 1, mtime=0)


def module_files(archive: Cpio, modules: list[Path], order: str) -> None:
    """Lay them into modules/, and there, under the name `order`, the list in which to load them."""
    for path in modules:
        archive.add(f"modules/{_module_name(path)}.ko", stat.S_IFREG | 0o644, _unpacked(path))
    names = "".join(f"{_module_name(path)}.ko\n" for path in modules)
    archive.add(f"modules/{order}", stat.S_IFREG | 0o644, names.encode())


def modules_in_order(tree: Path, names: Iterable[str]) -> list[Path]:
    """Files of the wanted modules and of those they need, dependencies first; none that is built in."""
    needs = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        needs[_module_name(Path(path))] = (path, rest.split())
    order: list[str] = []
    for wanted in names:
        if wanted in needs:  # else it is built in, or this kernel has none
            path, dependencies = needs[wanted]
            order += [*reversed(dependencies), path]
    return [tree / path for path in dict.fromkeys(order)]


def _module_name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _unpacked(path: Path) -> bytes:
    match path.suffix:
        case ".ko":
            return path.read_bytes()
        case ".xz":
            return lzma.decompress(path.read_bytes())
        case ".gz":
            return gzip.decompress(path.read_bytes())
    if shutil.which("zstd") is None:
        raise GuestError(f"cannot unpack {path}: apt-get install zstd")
    return subprocess.run(["zstd", "-dcq", str(path)], check=True, capture_output=True).stdout


def _needs_loader(program: bytes) -> bool:
    """Whether a 64-bit ELF program names an interpreter, as dynamically linked ones do."""
    (start,) = struct.unpack_from("<Q", program, 32)
    size, count = struct.unpack_from("<HH", program, 54)
    return any(struct.unpack_from("<I", program, start + i * size)[0] == _PT_INTERP for i in range(count))


def _write_image(path: Path, sector: bytes) -> None:
    with path.open("wb") as file:
        file.write(sector)
        file.truncate(IMAGE_BYTES)


class Cpio:
    """The `newc` archive that the kernel unpacks."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        encoded = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts.append(_padded(header + encoded) + _padded(data))

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
