"""A control plane in memory for the agent's tests: the internal API as a wire without sockets, with faults on demand."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec

from nubila import protocol
from nubila.client.answers import ConnectionFailed, Response
from nubila.model import ids

REGION = "test-region"
_rng = random.Random(7)


def new_id(kind: str) -> str:
    """The same in every process: workers must collect the same tests."""
    return ids.text(kind, ids.uuid7(1_800_000_000_000, _rng.getrandbits(74)))


NETWORK = protocol.NetworkView(
    network_id=new_id("network"),
    name="default",
    driver="bridge",
    mtu=1500,
    nat=True,
    subnets=(
        protocol.SubnetView(subnet_id=new_id("subnet"), cidr="10.9.0.0/16", gateway="10.9.0.1", dns=("10.9.0.1",)),
        protocol.SubnetView(subnet_id=new_id("subnet"), cidr="fd09::/64", gateway="fd09::1"),
    ),
)
IMAGE = b"an image" * 100
IMAGE_ID = new_id("image")
IMAGE_SHA = __import__("hashlib").sha256(IMAGE).hexdigest()
_count = iter(range(300, 60000))


def vm(**changes: Any) -> protocol.Vm:
    """A wish with one disk and one nic."""
    n = next(_count)
    vm_id = new_id("vm")
    wish = protocol.Vm(
        vm_id=vm_id,
        name=f"vm{n}",
        epoch=1,
        generation=1,
        project_id=new_id("project"),
        hostname=f"vm{n}",
        image_id=IMAGE_ID,
        flavor="small",
        keys=("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE someone",),
        disks=(
            protocol.Disk(
                volume_id=new_id("volume"),
                attachment_id=new_id("attachment"),
                epoch=1,
                index=0,
                driver="directory",
                format="qcow2",
                size_gib=1,
                image_id=IMAGE_ID,
                image_sha256=IMAGE_SHA,
                image_format="qcow2",
            ),
        ),
        nics=(
            protocol.Nic(
                port_id=new_id("port"),
                epoch=1,
                index=0,
                mac=f"52:54:00:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}",
                network=NETWORK,
                addresses=(f"10.9.{n >> 8 & 255}.{n & 255}", f"fd09::{n:x}"),
            ),
        ),
    )
    return msgspec.structs.replace(wish, **changes)


class Control:
    """What the control plane knows. Everything is under one lock; `changed` wakes pollers."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.vms: dict[str, protocol.Vm] = {}
        self.volumes: dict[str, protocol.Volume] = {}  # those that have a wish of their own
        self.volume_reports: dict[str, list[protocol.VolumeReport]] = {}
        self.revision_of: dict[str, int] = {}
        self.revision = 1
        self.session = 0
        self.fabric_epoch, self.timeline = 1, 1
        self.reports: dict[str, protocol.VmReport] = {}
        self.history: list[protocol.VmReport] = []
        self.posts: list[protocol.Reports] = []
        self.polls = 0
        self.hellos: list[protocol.Hello] = []
        self.questions: list[protocol.Question] = []
        self.answers: dict[str, protocol.Answer] = {}
        self.notify = True  # False: changes wake nobody, as when all notifications are lost
        self.down = False
        self.refuse: tuple[int, str] | None = None  # status, slug
        self.lose_replies = 0  # so many reports arrive and their answers do not
        self.canned: list[protocol.Wanted] = []  # answers to give before any other, as late ones would come
        self.downloads = 0

    def wish(self, *vms: protocol.Vm) -> None:
        with self.changed:
            self.revision += 1
            for v in vms:
                self.vms[v.vm_id] = v
                self.revision_of[v.vm_id] = self.revision
            if self.notify:
                self.changed.notify_all()

    def wish_volume(self, volume: protocol.Volume) -> None:
        with self.changed:
            self.revision += 1
            self.volumes[volume.volume_id] = volume
            self.revision_of[volume.volume_id] = self.revision
            self.changed.notify_all()

    def change(self, vm_id: str, **changes: Any) -> protocol.Vm:
        was = self.vms[vm_id]
        now = msgspec.structs.replace(was, generation=was.generation + 1, **changes)
        self.wish(now)
        return now

    def forget(self, vm_id: str) -> None:
        with self.changed:
            self.vms.pop(vm_id, None)

    def ask(self, vm_id: str) -> str:
        question = protocol.Question(question_id=new_id("question"), about="console", vm_id=vm_id)
        with self.changed:
            self.questions.append(question)
            self.changed.notify_all()
        return question.question_id

    def wanted(self, since: int) -> protocol.Wanted:
        full = since <= 0 or since > self.revision
        vms = tuple(v for k, v in self.vms.items() if full or self.revision_of[k] > since)
        volumes = tuple(v for k, v in self.volumes.items() if full or self.revision_of[k] > since)
        questions, self.questions = tuple(self.questions), []
        return protocol.Wanted(
            region=REGION,
            fabric_epoch=self.fabric_epoch,
            timeline=self.timeline,
            session=self.session,
            revision=self.revision,
            vms=vms,
            volumes=volumes,
            questions=questions,
            full=full,
        )

    def set_down(self, down: bool) -> None:
        with self.changed:
            self.down = down
            self.changed.notify_all()


class ControlWire:
    """One agent's connection to it."""

    def __init__(self, control: Control, latency_s: float = 0.0):
        self.control, self.latency_s = control, latency_s
        self.closed = False

    def request(self, method: str, path: str, *, query=None, body=None, timeout_s=None, headers=None) -> Response:  # type: ignore[no-untyped-def]
        c = self.control
        if self.latency_s:
            time.sleep(self.latency_s)
        self._check()
        word = path.split("/")[3]
        if word == "sessions":
            with c.changed:
                c.session += 1
                c.hellos.append(msgspec.json.decode(body, type=protocol.Hello))
                c.changed.notify_all()
                return _ok(protocol.Welcome(session=c.session, fabric_epoch=c.fabric_epoch, region=REGION, zone="z1"))
        if word == "wanted":
            return self._wanted(query)
        if word == "reports":
            return self._reports(body)
        if word == "answers":
            with c.changed:
                c.answers[path.split("/")[4]] = msgspec.json.decode(body, type=protocol.Answer)
            return Response(204, {}, b"")
        return _problem(404, "not-found")

    @contextmanager
    def stream(self, method: str, path: str, *, timeout_s=None) -> Iterator[Any]:  # type: ignore[no-untyped-def]
        self._check()
        self.control.downloads += 1
        yield _Stream(IMAGE)

    def close(self) -> None:
        with self.control.changed:
            self.closed = True
            self.control.changed.notify_all()

    def _check(self) -> None:
        if self.closed or self.control.down:
            raise ConnectionFailed("https://control", "no one is there", may_have_arrived=False)

    def _wanted(self, query: dict[str, Any]) -> Response:
        c = self.control
        with c.changed:
            c.polls += 1
            until = time.monotonic() + query["wait"]
            if c.canned:
                return _ok(c.canned.pop(0))
            while True:
                self._check()
                if c.refuse is not None:
                    return _problem(*c.refuse)
                if query["session"] != c.session:
                    return _problem(409, "wrong-session")
                left = until - time.monotonic()
                since = int(query["since"])
                if since <= 0 or c.revision > since or c.questions or left <= 0:
                    if left > 0 or c.revision > since:
                        return _ok(c.wanted(since))
                    return _ok(msgspec.structs.replace(c.wanted(since), vms=()))
                c.changed.wait(left)

    def _reports(self, body: bytes) -> Response:
        c = self.control
        said = msgspec.json.decode(body, type=protocol.Reports)
        with c.changed:
            if said.session != c.session:
                return _problem(409, "wrong-session")
            c.posts.append(said)
            refused = []
            for told in said.volumes:
                self.control.volume_reports.setdefault(told.volume_id, []).append(told)
            for report in said.vms:
                wish = c.vms.get(report.vm_id)
                if wish is not None and (report.epoch, report.generation) < (wish.epoch, wish.generation):
                    refused.append(report.vm_id)
                    continue
                c.reports[report.vm_id] = report
                c.history.append(report)
                if report.gone:
                    c.vms.pop(report.vm_id, None)
            c.changed.notify_all()
            if c.lose_replies > 0:
                c.lose_replies -= 1
                raise ConnectionFailed("https://control", "the reply was lost")
            return _ok(
                protocol.Reported(taken=len(said.vms) + len(said.volumes) - len(refused), refused=tuple(refused))
            )


class _Stream:
    def __init__(self, data: bytes):
        self.status, self.data, self.headers = 200, data, {"content-length": str(len(data))}

    def chunks(self) -> Iterator[bytes]:
        yield self.data


def _ok(body: Any) -> Response:
    return Response(200, {"content-type": "application/json"}, msgspec.json.encode(body))


def _problem(status: int, slug: str) -> Response:
    body = {"status": status, "slug": slug, "detail": slug}
    return Response(status, {"content-type": "application/problem+json"}, msgspec.json.encode(body))


def uuid_of(vm_id: str) -> UUID:
    found = ids.parse("vm", vm_id)
    assert found is not None
    return found
