"""What handlers work with, made once by main; and the two steps all writes share: carry out, then show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from nubila import errors
from nubila.access.authority import Authority
from nubila.access.vaultbox import VaultBox
from nubila.api.moment import moment_of
from nubila.api.route import Answer, Call
from nubila.config import Settings
from nubila.drivers.image_store.base import ImageStore
from nubila.fleet.fleet import Fleet
from nubila.fleet.heard import Heard
from nubila.intent.asking import Asking, Outcome
from nubila.intent.carry import Attempt, Caller, Carrier, Done, Planned
from nubila.intent.catalog import new_in
from nubila.model.catalog import Plane
from nubila.model.draft import Row
from nubila.model.ids import parse, text
from nubila.represent import etag, json
from nubila.represent.page import Page, foreign, next_link
from nubila.store.change import ChangeStore
from nubila.store.database import Database, Record
from nubila.store.feed import Feed
from nubila.store.image import ImageRows
from nubila.store.node import NodeStore
from nubila.store.notify import Hub, Notifier
from nubila.store.past import PastDatabase
from nubila.store.port import PortStore
from nubila.store.resource import AccountStore, Filter, ResourceStore, states
from nubila.store.vm import VmStore
from nubila.store.volume import VolumeStore
from nubila.store.work import WorkStore

CLOCK_S = 1.0  # a waiter looks at least this often, hint or not


@dataclass(frozen=True, slots=True)
class Context:
    settings: Settings
    region: str
    fabric_epoch: int
    timeline: int
    database: Database
    resources: ResourceStore
    accounts: AccountStore
    vms: VmStore
    volumes: VolumeStore
    ports: PortStore
    nodes: NodeStore
    fleet: Fleet
    heard: Heard
    hub: Hub
    feed: Feed
    notifier: Notifier
    carrier: Carrier
    vault: VaultBox
    authority: Authority
    images: ImageStore
    image_rows: ImageRows
    work: WorkStore
    random_bytes: Callable[[int], bytes]

    async def as_of(self, text: str) -> Context:
        """The same context over the database as it was: a time of RFC 3339, or a cursor. Raises BadRequest, Gone."""
        past = PastDatabase(self.database, await moment_of(text, self.fabric_epoch, ChangeStore(self.database)))
        return replace(
            self,
            database=past,
            resources=ResourceStore(past),
            accounts=AccountStore(past),
            vms=VmStore(past),
            volumes=VolumeStore(past),
            ports=PortStore(past),
            nodes=NodeStore(past),
            image_rows=ImageRows(past),
        )

    def random_int(self, bits: int) -> int:
        return self.random_ints(bits, 1)[0]

    def random_ints(self, bits: int, count: int) -> list[int]:
        size, most = -(-bits // 8), (1 << bits) - 1
        drawn = self.random_bytes(size * count)
        return [int.from_bytes(drawn[i : i + size], "big") & most for i in range(0, len(drawn), size)]


ApiCall = Call[Context, Any, Any]
Show = Callable[[ApiCall, Done], Any]


def project_of(call: ApiCall) -> UUID | None:
    """The project that limits what this call sees: None for operators."""
    return call.principal.project_id if call.principal.plane is Plane.USER else None


def is_operator(call: ApiCall) -> bool:
    return call.principal.plane is Plane.OPERATOR


def ref(kind: str, value: str) -> tuple[UUID | None, str | None]:
    """An id or a name, as the two arguments that look-ups take."""
    object_id = parse(kind, value)
    return (object_id, None) if object_id is not None else (None, value)


async def meant(call: ApiCall, kind: str, value: str) -> tuple[UUID | None, str | None]:
    """As `ref`; where an operator, who sees all projects, gives a name, the id of the one object that has it.

    Raises Conflict when several projects have one of that name.
    """
    object_id, name = ref(kind, value)
    if name is None or not is_operator(call):
        return object_id, name
    row = await call.context.resources.whole(kind, name=name)
    return (UUID(row["id"]), None) if row is not None else (None, name)


def missing(call: ApiCall, kind: str, value: str) -> errors.NotFound:
    """What was named is not there, or not for this caller; with the command that lists what is."""
    noun = kind.replace("_", "-")
    where = " --as operator" if is_operator(call) and kind in BOTH_PLANES else ""
    return errors.NotFound(
        f"There is no {kind.replace('_', ' ')} '{value[:80]}'.", fix=f"See 'nubila {noun} list{where}'."
    )


# kinds that the command lists on both planes
BOTH_PLANES = frozenset({"vm", "network", "port", "volume", "image", "flavor", "token", "operation", "plan"})


def matching(call: ApiCall, row: Mapping[str, Any]) -> None:
    """If-Match against the wish: the first number of the ETag is the generation. Raises PreconditionFailed."""
    if call.if_match is None or "*" in call.if_match:
        return
    if not any(tag.partition(".")[0] == str(row["generation"]) for tag in call.if_match):
        raise errors.PreconditionFailed(generation=row["generation"])


def etag_of(row: Mapping[str, Any]) -> str:
    return etag.of(row["generation"], row["version"])


async def carried(
    call: ApiCall, permission: str, attempt: Attempt, show: Show, *, project_id: UUID | None = None
) -> Answer:
    """Carry the intent out and answer with what `show` makes of it, or with the plan."""
    p = call.principal
    caller = Caller(
        actor=p.actor,
        request=call.request_id,
        action=permission,
        fingerprint=call.fingerprint,
        project_id=project_id or p.project_id,
        account_id=p.account_id,
        operator=is_operator(call),
        idempotency_key=call.idempotency_key,
        plan=call.plan,
    )
    done = await call.context.carrier.carry(caller, attempt)
    if isinstance(done, Planned):
        return Answer(body=done.shown, status=200)
    return await answered(call, done, show)


async def answered(call: ApiCall, done: Done, show: Show) -> Answer:
    operation_id = done.refers.get("operation")
    if call.wait_s > 0 and operation_id is not None:
        await wait_for_operation(call, operation_id)
    body = await show(call, done)
    headers = {"idempotent-replay": "true"} if done.replayed else {}
    return Answer(body={**body, **done.secret}, status=done.status, headers=headers)


async def wait_for_operation(call: ApiCall, operation_id: UUID) -> Record | None:
    """The operation once it has ended, or when the call's time is over; hints make it quick, the clock makes it sure."""
    until = time.monotonic() + call.wait_s
    while True:
        expected = call.context.hub.expect(f"op:{operation_id}")
        try:
            row = await call.context.resources.one("operation", project_id=project_of(call), object_id=operation_id)
            left = until - time.monotonic()
            if row is None or row["ended_at"] is not None or left <= 0 or call.gate.stopping or call.departed:
                return row
            await call.until(expected.wait(min(left, CLOCK_S)), min(left, CLOCK_S) + 0.1)
        finally:
            expected.close()


async def found(call: ApiCall, kind: str, value: str, *, project_id: UUID | None = None, **equals: Any) -> Row:
    """The whole row for an intent, within what the caller sees. Raises NotFound."""
    object_id, name = ref(kind, value)
    row = await call.context.resources.whole(kind, project_id=project_id, object_id=object_id, name=name, **equals)
    if row is None:
        raise missing(call, kind, value)
    return row


async def seen(call: ApiCall, kind: str, value: str) -> Record:
    """The row as people see it. Raises NotFound."""
    object_id, name = await meant(call, kind, value)
    row = await call.context.resources.one(kind, project_id=project_of(call), object_id=object_id, name=name)
    if row is None:
        raise missing(call, kind, value)
    return row


def drafting(call: ApiCall, make: Callable[[Asking], Outcome]) -> Attempt:
    """An attempt for intents whose view was read already or that need none but the time."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        return make(asking(await call.context.accounts.now()))

    return attempt


def drafting_in_project(call: ApiCall, make: Callable[[Asking], Outcome]) -> Attempt:
    """An attempt to make something new in the caller's project."""

    async def attempt(asking: Callable[[datetime], Asking]) -> Outcome:
        project_id = call.principal.project_id
        assert project_id is not None
        project = await call.context.resources.whole("project", object_id=project_id)
        if project is None:
            raise errors.NotFound("Your project does not exist any more.")
        return new_in(project, make(asking(await call.context.accounts.now())))

    return attempt


def listed(call: ApiCall, kind: str, rows: list[Record], show: Callable[[Record], Any]) -> Answer:
    """A page: one row more than the limit means that there is a next one."""
    page: Page = call.page
    more = len(rows) > page.limit
    rows = rows[: page.limit]
    link = next_link(call.path, call.query_text, (text(kind, rows[-1]["id"]),)) if more else None
    return Answer(body=json.listing([show(r) for r in rows], link))


def _state(kind: str, wanted: str | None) -> str | None:
    """A state to filter by. Raises Invalid for one that no object of the kind can be in: the answer would be empty."""
    known = states(kind)
    if wanted is None or not known or wanted in known:
        return wanted
    why = (
        " 'unknown' is shown while a node is silent; the list keeps the state before it." if wanted == "unknown" else ""
    )
    noun = kind.replace("_", " ")
    raise errors.Invalid(
        f"state: '{wanted[:80]}' is no state of {'an' if noun[0] in 'aio' else 'a'} {noun}. Known are: {', '.join(known)}.{why}",
        field="state",
        where="query",
    )


def after_of(call: ApiCall, kind: str) -> UUID | None:
    """The object that a page begins after, None for the first page. Raises BadRequest for another list's cursor."""
    if call.page.after is None:
        return None
    after = parse(kind, str(call.page.after[0]))
    if after is None:
        raise foreign()
    return after


def filtered(call: ApiCall, kind: str, **more: Any) -> Filter:
    """The filter that the query asks for, within what the caller sees."""
    after = after_of(call, kind)
    labels = {}
    for pair in getattr(call.query, "label", ()) or ():
        key, eq, value = pair.partition("=")
        if not eq or not key:
            raise errors.BadRequest(f"label must be KEY=VALUE, not '{pair[:80]}'.")
        labels[key] = value
    return Filter(
        project_id=project_of(call),
        name=getattr(call.query, "name", None),
        state=_state(kind, getattr(call.query, "state", None)),
        labels=labels,
        limit=call.page.limit,
        after=after,
        equals={k: v for k, v in more.items() if v is not None},
    )
