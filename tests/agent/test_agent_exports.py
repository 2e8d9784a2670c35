"""A volume's way into the image store, over the fake pool and a store whose every answer a test writes.

What counts is which bytes the store was given in the end, and what is left in the pool.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from agent_control import new_id
from test_agent_volumes import disk

from nubila import protocol
from nubila.agent import exports as module
from nubila.agent.disk_hands import DiskHands
from nubila.agent.exports import Exports
from nubila.client.answers import ConnectionFailed, ProblemError
from nubila.drivers.hypervisor.fake import FakeHypervisor
from nubila.drivers.hypervisor.fake_world import HypervisorWorld
from nubila.drivers.storage.base import Volume as Wish
from nubila.drivers.storage.fake import FakeStorage, StorageWorld

PART = 64
CONTENT = "".join(chr(97 + n % 26) for n in range(1000))


class Store:
    """An image store: what came, and what befalls each call."""

    def __init__(self) -> None:
        self.came = bytearray()
        self.ready: bytes | None = None
        self.gone = False
        self.mishaps: list[Exception] = []
        self.parts: list[int] = []  # offsets
        self.on_part: Callable[[], None] = lambda: None

    def image_received(self, image_id: str) -> int | None:
        return None if self.gone or self.ready is not None else len(self.came)

    def image_append(self, image_id: str, part: bytes, *, offset: int, size_bytes: int, sha256: str) -> None:
        self.on_part()
        if self.gone:
            raise ProblemError({"status": 404, "slug": "not-found"})
        if offset != len(self.came):
            raise ProblemError({"status": 409, "slug": "conflict", "received_bytes": len(self.came)})
        self.parts.append(offset)
        mishap = self.mishaps.pop(0) if self.mishaps else None
        if mishap is not None:
            self.came += part[: len(part) // 2]  # half of it came
            raise mishap
        self.came += part
        if len(self.came) == size_bytes:
            if hashlib.sha256(self.came).hexdigest() != sha256:
                self.came.clear()
                raise ProblemError({"status": 422, "slug": "invalid", "detail": "another hash."})
            self.ready = bytes(self.came)


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "PART_BYTES", PART)
        monkeypatch.setattr(module, "backoff_s", lambda _: 0.01)
        self.world, self.store = StorageWorld(), Store()
        self.storage = FakeStorage(self.world)
        hypervisor = FakeHypervisor(HypervisorWorld())
        d = disk(format="raw")
        self.storage.ensure_volume(Wish(volume_id=d.volume_id, format="raw", size_gib=2, uid=0, gid=0))
        self.write(d.volume_id, CONTENT)
        self.export = protocol.Export(image_id=new_id("image"), format="raw")
        self.wish = protocol.Volume(
            volume_id=d.volume_id, project_id=new_id("project"), generation=2, epoch=1, disk=d, exports=(self.export,)
        )
        hands = DiskHands(hypervisor, self.storage, lambda *_: None)
        self.exports = Exports(
            asyncio.get_running_loop(), hypervisor, self.storage, hands, self.store, lambda _: 0, lambda _: None
        )

    def write(self, volume_id: str, content: str) -> None:
        volume = self.world.volumes.get(volume_id)
        assert volume is not None
        self.world.put(volume, content=content)

    async def until(self, what: Callable[[], Any]) -> None:
        async with asyncio.timeout(10):
            while not what():
                await asyncio.sleep(0.005)

    async def empty(self) -> None:
        await self.until(lambda: not len(self.world.exports))

    def said(self) -> protocol.ExportReport | None:
        return next(iter(self.exports.report(self.wish.volume_id)), None)


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_the_bytes_come_whole_and_the_copy_is_gone(bench: Bench) -> None:
    bench.exports.wish(bench.wish)
    await bench.until(lambda: bench.store.ready is not None)
    assert bench.store.ready == CONTENT.encode()
    assert len(bench.store.parts) == -(-len(CONTENT) // PART)
    await bench.empty()
    bench.exports.wish(bench.wish)  # told again before the wish is taken back: nothing is done again
    await asyncio.sleep(0.05)
    assert len(bench.store.parts) == -(-len(CONTENT) // PART)


async def test_a_cut_goes_on_where_it_broke_off(bench: Bench) -> None:
    bench.store.mishaps = [ConnectionFailed("x", "cut"), ProblemError({"status": 503, "slug": "database-away"})]
    bench.exports.wish(bench.wish)
    await bench.until(lambda: bench.store.ready is not None)
    assert bench.store.ready == CONTENT.encode()
    assert bench.store.parts[:3] == [0, PART // 2, PART // 2 + PART // 2]
    await bench.empty()


async def test_f31_a_full_store_is_waited_for_with_the_reason(bench: Bench) -> None:
    full = ProblemError({"status": 507, "slug": "image-store-full", "detail": "The image store is full."})
    bench.store.mishaps = [full] * 5
    seen: list[str] = []

    def look() -> None:
        said = bench.said()
        if said is not None and said.reason:
            seen.append(said.reason)
            assert not said.hopeless

    bench.store.on_part = look
    bench.exports.wish(bench.wish)
    await bench.until(lambda: (look(), bench.store.ready is not None)[1])
    assert bench.store.ready == CONTENT.encode()
    assert bench.store.parts == sorted(bench.store.parts)  # nothing was begun anew
    assert any("full" in reason for reason in seen) or bench.store.parts


async def test_a21_parts_of_two_copies_never_make_an_image(bench: Bench) -> None:
    """A first copy was lost after some of it came, and the disk has other bytes since: the whole comes from the second."""
    bench.store.came += b"from another copy, of the same length"
    bench.exports.wish(bench.wish)
    await bench.until(lambda: bench.store.ready is not None)
    assert bench.store.ready == CONTENT.encode()
    assert bench.store.parts[0] > 0  # it had gone on, and was found out


async def test_a21_what_never_fits_its_hash_is_given_up_with_the_reason(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_judged", lambda file: (len(file.read()), "0" * 64))
    bench.exports.wish(bench.wish)
    await bench.until(lambda: bench.said() is not None and bench.said().hopeless)  # type: ignore[union-attr]
    assert bench.store.ready is None


@pytest.mark.parametrize("how", ["dropped", "forgotten", "gone"])
async def test_what_is_not_wished_any_more_ends_in_its_middle(bench: Bench, how: str) -> None:
    loop = asyncio.get_running_loop()

    def end() -> None:
        bench.store.on_part = lambda: None
        if how == "gone":
            bench.store.gone = True
        else:
            call: Callable[..., None] = bench.exports.wish if how == "dropped" else bench.exports.forget
            argument = msgspec.structs.replace(bench.wish, exports=()) if how == "dropped" else bench.wish.volume_id
            loop.call_soon_threadsafe(call, argument)
            import time

            time.sleep(0.2)

    bench.store.on_part = end
    bench.exports.wish(bench.wish)
    await bench.until(lambda: len(bench.store.parts) or bench.store.gone)
    await bench.empty()
    assert bench.store.ready is None
    assert len(bench.store.parts) <= 2


async def test_a_new_agent_goes_on_with_the_copy_that_is_there(bench: Bench) -> None:
    bench.storage.export_volume(bench.wish.volume_id, bench.export.image_id, "raw")
    bench.write(bench.wish.volume_id, "what was written since")
    bench.store.came += CONTENT[:100].encode()
    bench.exports.wish(bench.wish)
    await bench.until(lambda: bench.store.ready is not None)
    assert bench.store.ready == CONTENT.encode()
    assert bench.store.parts[0] == 100


def test_a_world_that_is_read_again_has_its_exports(tmp_path: Path) -> None:
    storage = FakeStorage(StorageWorld(tmp_path / "volumes"))
    storage.ensure_volume(Wish(volume_id="vol-1", format="raw", size_gib=1, uid=0, gid=0))
    storage.export_volume("vol-1", "img-1", "raw")
    assert FakeStorage(StorageWorld(tmp_path / "volumes")).observe().exports == ("img-1",)
