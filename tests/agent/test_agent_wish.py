"""The wishes on disk: what was made durable comes back, whatever cut the agent or its file short."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from agent_control import vm
from hypothesis import given, settings
from hypothesis import strategies as st

from nubila.agent import directory
from nubila.agent import wish as module
from nubila.agent.directory import Rooms
from nubila.agent.known import Record
from nubila.agent.wish import Floor, Wishes

VMS = [vm() for _ in range(4)]


def opened(directory: Path) -> Wishes:
    wishes = Wishes(directory)
    wishes.open()
    return wishes


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    wishes = opened(tmp_path)
    wishes.put(VMS[0], 3)
    wishes.put(VMS[1], 3)
    wishes.note(VMS[0].vm_id, Record(starts=2, made=("vol-1",)))
    wishes.drop(VMS[1].vm_id)
    wishes.raise_floor(Floor(fabric_epoch=3, timeline=2, revision=9))
    wishes.write()  # and then kill -9
    again = opened(tmp_path)
    assert list(again.entries) == [VMS[0].vm_id]
    entry = again.entries[VMS[0].vm_id]
    assert (entry.vm, entry.record, entry.fabric_epoch) == (VMS[0], Record(starts=2, made=("vol-1",)), 3)
    assert again.floor == Floor(fabric_epoch=3, timeline=2, revision=9)


def test_the_file_is_for_root_only(tmp_path: Path) -> None:
    opened(tmp_path / "new").close()
    assert (tmp_path / "new" / "wishes").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.integers(0, 3))
def test_a_torn_or_damaged_file_loses_only_what_is_damaged(cut: int, flip: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        wishes = opened(path)
        wishes.put(VMS[0], 1)
        number = wishes.note(VMS[0].vm_id, Record(starts=1))
        wishes.durable(number)
        safe = (path / "wishes").stat().st_size
        wishes.put(VMS[1], 1)
        wishes.write()
        wishes._journal.close()
        data = bytearray((path / "wishes").read_bytes())
        data = data[: max(safe, len(data) - cut)]
        if flip and len(data) > safe + flip:
            data[safe + flip] ^= 0x55
        (path / "wishes").write_bytes(data)
        again = opened(path)
        assert again.entries[VMS[0].vm_id].record == Record(starts=1)
        again.put(VMS[2], 1)
        again.close()
        assert VMS[2].vm_id in opened(path).entries


def test_compaction_keeps_everything_and_shrinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPACT_ABOVE_BYTES", 1000)
    wishes = opened(tmp_path)
    for starts in range(200):
        for wish in VMS:
            wishes.put(msgspec.structs.replace(wish, generation=starts), 1)
            wishes.note(wish.vm_id, Record(starts=starts))
    wishes.write()
    large = (tmp_path / "wishes").stat().st_size
    wishes.compact_if_large()
    assert (tmp_path / "wishes").stat().st_size < large / 20
    number = wishes.note(VMS[0].vm_id, Record(starts=999))
    wishes.durable(number)
    again = opened(tmp_path)
    assert {k: e.record.starts for k, e in again.entries.items()} == {
        VMS[0].vm_id: 999,
        **{v.vm_id: 199 for v in VMS[1:]},
    }


def test_durable_is_a_group_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = opened(tmp_path)
    numbers = []
    for wish in VMS:
        wishes.put(wish, 1)
        numbers.append(wishes.note(wish.vm_id, Record(starts=1)))
    calls: list[int] = []
    real = os.fdatasync

    def counted(fd: int) -> None:
        calls.append(fd)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", counted)
    threads = [threading.Thread(target=wishes.durable, args=(n,)) for n in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_full_disk_loses_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes = opened(tmp_path)
    wishes.put(VMS[0], 1)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:50]) if len(data) > 50 else _full())
    with pytest.raises(OSError, match="No space"):
        wishes.write()
    monkeypatch.setattr(os, "write", real)
    wishes.put(VMS[1], 1)
    wishes.write()
    assert set(opened(tmp_path).entries) == {VMS[0].vm_id, VMS[1].vm_id}


def _full() -> int:
    raise OSError(28, "No space left on device")


def test_rooms_have_a_uid_each_and_it_is_the_lowest_free(tmp_path: Path) -> None:
    rooms = Rooms(tmp_path, "nubila")
    first, second, third = (rooms.ensure(v.vm_id) for v in VMS[:3])
    assert [r.uid for r in (first, second, third)] == [1_100_000_000, 1_100_000_001, 1_100_000_002]
    assert (tmp_path / "vms").stat().st_mode & 0o777 == 0o711
    assert first.path.stat().st_mode & 0o777 == 0o700
    rooms.remove(VMS[1].vm_id)
    assert rooms.ensure(VMS[3].vm_id).uid == second.uid
    if os.geteuid() == 0:
        assert first.path.stat().st_uid == first.uid
        again = Rooms(tmp_path, "nubila")
        assert again.ensure(VMS[2].vm_id) == third
        assert again.ensure(VMS[1].vm_id).uid == 1_100_000_003
    assert Rooms(tmp_path / "other", "other").ensure(VMS[0].vm_id).uid != first.uid


@pytest.mark.parametrize("name", ["..", "vm-../../../etc", "", "vol-" + "0" * 26, "vm-" + "0" * 26 + "/.."])
def test_only_ids_make_paths(tmp_path: Path, name: str) -> None:
    rooms = Rooms(tmp_path, "nubila")
    with pytest.raises(ValueError, match="not the id"):
        rooms.ensure(name)
    with pytest.raises(ValueError, match="not the id"):
        rooms.remove(name)


def test_a_link_in_place_of_a_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at what it is, the mutant, the vm's files would be written where the link leads."""
    rooms = Rooms(tmp_path, "nubila")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "vms" / VMS[0].vm_id).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        rooms.ensure(VMS[0].vm_id)
    monkeypatch.setattr(directory, "stat", SimpleNamespace(S_ISDIR=lambda mode: True))
    assert rooms.ensure(VMS[0].vm_id).path.resolve() == tmp_path / "elsewhere"
