"""Guests of 512 bytes: boot sectors that do one thing at once, so that a case need not wait for Linux to boot."""

from __future__ import annotations

from pathlib import Path

_HELLO = b"BOOT SECTOR RUNS\n\0"
_PRINT = bytes.fromhex("31c0 8ed8 baf803 be0000 fc ac 84c0 7403 ee ebf8")  # si is filled in: where the text lies
_POWER_OFF = bytes.fromhex("ba0406 b80020 ef f4 ebfd")  # PM1a control: sleep type 0, sleep enable
_AWAIT_BUTTON = bytes.fromhex("ba0206 b80001 ef fb f4 ba0006 ed f6c401 74f5")  # enable it, then halt until it is set
_FLOOD = bytes.fromhex("baf803 b041 ee ebfd")

_TICK = bytes.fromhex("baf803 b02e ee bb8000 31c9 e2fe 4b 75f9 ebf1")  # print a dot, count for a while, again
_PANIC = bytes.fromhex("ba0505 b001 ee fb f4 ebfc")  # tell the pvpanic device, then halt

OBEDIENT = "obedient"  # powers off when its power button is pressed
DEAF = "deaf"  # takes no notice of anything
SUICIDAL = "suicidal"  # powers itself off at once
FLOODING = "flooding"  # writes to its console without end
TICKING = "ticking"  # writes a dot to its console every so often
PANICKING = "panicking"  # its kernel panics at once

_PROGRAMS: dict[str, bytes] = {
    OBEDIENT: _PRINT + _AWAIT_BUTTON + _POWER_OFF,
    DEAF: _PRINT + bytes.fromhex("fb f4 ebfc"),
    SUICIDAL: _PRINT + _POWER_OFF,
    FLOODING: _FLOOD,
    TICKING: _PRINT + _TICK,
    PANICKING: _PRINT + _PANIC,
}


def boot_sector(kind: str) -> bytes:
    program = bytearray(_PROGRAMS[kind])
    if program.startswith(_PRINT[:7]):
        program[8:10] = (0x7C00 + len(program)).to_bytes(2, "little")
    return bytes(program + _HELLO).ljust(510, b"\0") + b"\x55\xaa"


def write_disk(path: Path, kind: str) -> None:
    with path.open("wb") as file:
        file.write(boot_sector(kind))
        file.truncate(1 << 20)


def write_iso(path: Path, kind: str) -> None:
    """An ISO that boots such a guest: El Torito without emulation, and no files."""
    blocks = 16 + 5
    primary = bytearray((b"\x01CD001\x01").ljust(2048, b"\0"))
    primary[80:88] = blocks.to_bytes(4, "little") + blocks.to_bytes(4, "big")
    primary[128:132] = (2048).to_bytes(2, "little") + (2048).to_bytes(2, "big")
    record = (b"\0CD001\x01EL TORITO SPECIFICATION").ljust(0x47, b"\0") + (19).to_bytes(4, "little")
    end = (b"\xffCD001\x01").ljust(2048, b"\0")
    validation = bytearray(b"\x01".ljust(30, b"\0") + b"\x55\xaa")
    words = [int.from_bytes(validation[n : n + 2], "little") for n in range(0, 32, 2)]
    validation[28:30] = (-sum(words) & 0xFFFF).to_bytes(2, "little")
    entry = b"\x88\0\0\0\0\0" + (4).to_bytes(2, "little") + (20).to_bytes(4, "little")
    catalog = bytes(validation) + entry
    parts = [bytes(primary), record, end, catalog, boot_sector(kind)]
    path.write_bytes(bytes(16 * 2048) + b"".join(p.ljust(2048, b"\0") for p in parts))
