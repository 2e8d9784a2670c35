"""The composition root of the control plane: makes every part once, hands it down, and serves the planes it was told to.

`python -m nubila serve user operator` and `... serve internal reconcile` are the supervisor's two; any split works.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import msgspec
import uvloop

from nubila import config, errors
from nubila.access import authority, keyfile, tokens, vaultbox
from nubila.access.authenticate import Authenticator, TokenRow
from nubila.access.principal import NODE, WAITING
from nubila.api.app import App, Refused, build
from nubila.api.context import Context
from nubila.api.internal.routes import ROUTES as INTERNAL
from nubila.api.operator.routes import ROUTES as OPERATOR
from nubila.api.route import Route
from nubila.api.server import Listener, Tls
from nubila.api.server import serve as serve_listeners
from nubila.api.user.routes import ROUTES as USER
from nubila.config import Settings
from nubila.drivers import image_store, registry
from nubila.drivers.image_store.base import Options as ImageOptions
from nubila.errors import Conflict, NubilaError
from nubila.fleet.fleet import Fleet
from nubila.fleet.heard import Heard
from nubila.image_import import Importer
from nubila.intent.carry import Carrier
from nubila.model import ids, node
from nubila.model.catalog import Plane, ProjectRole
from nubila.reconcile.loop import Loop
from nubila.reconcile.retention import Trimmer
from nubila.reconcile.seal import Sealer
from nubila.store.adopt import is_foreign
from nubila.store.change import ChangeStore
from nubila.store.database import Database, Record
from nubila.store.feed import BATCH, Feed
from nubila.store.image import ImageRows
from nubila.store.node import NodeStore
from nubila.store.notify import Hub, Notifier
from nubila.store.port import PortStore
from nubila.store.resource import AccountStore, ResourceStore
from nubila.store.seal import SealStore
from nubila.store.vm import VmStore
from nubila.store.volume import VolumeStore
from nubila.store.work import WorkStore
from nubila.telemetry import log

PLANES: dict[str, tuple[Plane, tuple[Route, ...], str]] = {
    "user": (Plane.USER, USER, "user_port"),
    "operator": (Plane.OPERATOR, OPERATOR, "operator_port"),
    "internal": (Plane.INTERNAL, INTERNAL, "internal_port"),
}
WORDS = (*PLANES, "reconcile")
SERVE_HELP = """Run these parts of the control plane in one process; all of them, if none is named. Settings come from NUBILA_*
variables. 'sudo make up' starts a supervisor, which runs this as the installation's own user."""
OUTSIDE = (errno.EACCES, errno.EPERM, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EROFS, errno.ENOSPC)
TOKEN_KEPT_S = 1.0
EPOCH_EVERY_S = 2.0


def mint() -> UUID:
    return ids.uuid7(time.time_ns() // 1_000_000, secrets.randbits(74))


def now() -> datetime:
    return datetime.now(UTC)


class Credentials:
    """Tokens and nodes from the store, kept for at most a second, so that a revoked one is refused within it."""

    def __init__(self, accounts: AccountStore, resources: ResourceStore):
        self._accounts = accounts
        self._resources = resources
        self._tokens: dict[UUID, tuple[float, TokenRow | None]] = {}
        self._nodes: dict[UUID, tuple[float, str | None]] = {}

    async def token(self, token_id: UUID) -> TokenRow | None:
        kept = self._tokens.get(token_id)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        row = await self._accounts.token(token_id)
        made = None if row is None or row["sha256"] is None else _token_row(row)
        if len(self._tokens) > 10_000:
            self._tokens.clear()
        self._tokens[token_id] = (time.monotonic() + TOKEN_KEPT_S, made)
        return made

    async def node(self, node_id: UUID) -> str | None:
        kept = self._nodes.get(node_id)
        if kept is not None and kept[0] > time.monotonic():
            return kept[1]
        row = await self._resources.one("node", object_id=node_id)
        role = None
        if row is not None:
            role = NODE if msgspec.json.decode(row["spec"], type=node.Spec).approved else WAITING
        self._nodes[node_id] = (time.monotonic() + TOKEN_KEPT_S, role)
        return role


RANK = {ProjectRole.READER: 0, ProjectRole.MEMBER: 1, ProjectRole.OWNER: 2}


def _token_row(row: Record) -> TokenRow:
    plane = Plane(str(row["plane"]))
    role, live = str(row["role"]), not row["revoked"] and not row["suspended"]
    if plane is Plane.USER:
        member = row["member_role"]
        live = live and member is not None
        role = min(role, str(member or "reader"), key=lambda r: RANK[ProjectRole(r)])
    return msgspec.convert(
        {
            "token_id": row["id"],
            "secret_sha256": bytes.fromhex(str(row["sha256"])),
            "plane": plane,
            "account_kind": plane.value,
            "account_id": row["account_id"],
            "role": role,
            "project_id": row["project_id"],
            "expires_at": row["expires_at"],
            "live": live,
        },
        TokenRow,
        builtin_types=(bytes, datetime, UUID),
    )


async def compose(settings: Settings, pool: int | None = None) -> Context:
    """Every part of a control-plane process, connected."""
    host = str(settings.pg_socket_dir)
    database = await Database.open(host=host, size=pool or settings.pool_size)
    nodes, hub = NodeStore(database), Hub()
    fabric = await nodes.fabric()
    if await is_foreign(database):
        raise Conflict(
            "This database was loaded from another server: its change log has transactions that this one never had.",
            fix="Run 'nubila database adopt' once; then start again.",
        )
    notifier = Notifier(hub, {"host": host, "user": "nubila", "database": "nubila"}, enabled=settings.bus)
    fleet = Fleet(nodes)
    hub.on_every(lambda hint: fleet.outdated() if hint in ("fleet", "resync") else None)
    return Context(
        settings=settings,
        region=fabric["region"],
        fabric_epoch=fabric["fabric_epoch"],
        timeline=await nodes.timeline(),
        database=database,
        resources=ResourceStore(database),
        accounts=AccountStore(database),
        vms=VmStore(database),
        volumes=VolumeStore(database),
        ports=PortStore(database),
        nodes=nodes,
        fleet=fleet,
        heard=Heard(nodes, SealStore(database)),
        hub=hub,
        feed=_feed(ChangeStore(database), hub, fabric["fabric_epoch"]),
        notifier=notifier,
        carrier=Carrier(database, notifier, fleet, mint),
        vault=vaultbox.open_or_create(settings.control_dir / "vault.key", secrets.token_bytes(32)),
        authority=authority.open_or_create(settings.control_dir / "ca.key", settings.ca_file, fabric["region"], now()),
        images=registry.load(image_store.DRIVERS, settings.image_store)(_image_options(settings)),
        image_rows=ImageRows(database),
        work=WorkStore(database),
        random_bytes=secrets.token_bytes,
    )


def _feed(changes: ChangeStore, hub: Hub, fabric_epoch: int) -> Feed:
    return Feed(partial(changes.read, limit=BATCH), partial(changes.end, fabric_epoch), hub, fabric_epoch)


def _image_options(settings: Settings) -> ImageOptions:
    return ImageOptions(
        directory=str(settings.image_dir),
        reserve_bytes=settings.image_reserve_mib << 20,
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        prefix=settings.s3_prefix,
        credentials_file=settings.s3_credentials_file,
    )


async def first_operator_file(context: Context) -> None:
    """While there is no operator: a one-use secret in a file that only this machine's root and the control plane read."""
    file = context.settings.first_operator_file
    if await context.accounts.count_operators():
        file.unlink(missing_ok=True)
    elif not file.exists():
        secret, _ = tokens.make(tokens.Kind.FIRST, mint(), secrets.token_bytes(tokens.ENTROPY_BYTES))
        keyfile.publish(file, secret.encode() + b"\n", 0o600)


def app_of(word: str, context: Context) -> App:
    plane, routes, _ = PLANES[word]
    authenticate = Authenticator(plane, Credentials(context.accounts, context.resources), now, context.region)

    async def refused(call: Refused) -> None:
        p = call.principal
        await context.carrier.ledger.call(
            mint(),
            actor=p.actor if p else "unknown",
            project_id=p.project_id if p else None,
            request=call.request_id,
            action=call.permission,
            outcome="failed" if call.status == 500 else "refused",
            detail={"slug": call.slug, "status": call.status},
        )

    return build(plane, routes, context, authenticate=authenticate, ready=context.database.answers, refused=refused)


async def _one_epoch(context: Context, stop: asyncio.Event) -> None:
    """A process serves one fabric epoch: when the database is adopted it ends, and the supervisor starts it anew."""
    while not stop.is_set():
        await asyncio.sleep(EPOCH_EVERY_S)
        with contextlib.suppress(NubilaError):
            if (await context.nodes.fabric())["fabric_epoch"] != context.fabric_epoch:
                log.get().warning("fabric.adopted", reason="the database was adopted: this process starts anew")
                stop.set()


async def run(settings: Settings, words: Sequence[str]) -> None:
    context = await compose(settings)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    context.notifier.start()
    always = context.heard.run(), context.feed.run(), _one_epoch(context, stop)
    tasks = [asyncio.create_task(work) for work in always]
    if "operator" in words:
        await first_operator_file(context)
    if "reconcile" in words:
        tasks += [asyncio.create_task(work) for work in _background(settings, context, stop)]
    listeners = _listeners(settings, words, context)
    try:
        if listeners:
            await serve_listeners(listeners, stop)
        else:
            await stop.wait()
    finally:
        for task in tasks:
            task.cancel()
        await context.notifier.stop()
        await context.database.close()


def _background(settings: Settings, context: Context, stop: asyncio.Event) -> list[Coroutine[object, None, None]]:
    """The reconciler's loops."""
    holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    return [
        Importer(context).run(stop),
        Sealer(SealStore(context.database), context.work, context.hub, holder).run(stop),
        Trimmer(context.database, context.work, holder, timedelta(days=settings.change_days)).run(stop),
        Loop(context.carrier, context.work, holder).run(stop),
    ]


def _listeners(settings: Settings, words: Sequence[str], context: Context) -> list[Listener]:
    names = authority.server_names(settings.listen, [*settings.names, socket.gethostname()])
    return [
        Listener(
            app_of(w, context),
            settings.listen,
            getattr(settings, PLANES[w][2]),
            Tls(context.authority, names, now, peers=w == "internal"),
        )
        for w in words
        if w in PLANES
    ]


def serve(argv: list[str]) -> int:
    if {"-h", "--help"} & set(argv):
        print(f"Usage: nubila serve [{' | '.join(WORDS)}]...\n\n{SERVE_HELP}")
        return 0
    words = argv or list(WORDS)
    unknown = [w for w in words if w not in WORDS]
    if unknown:
        print(f"serve: unknown '{unknown[0]}'; known are: {', '.join(WORDS)}", file=sys.stderr)
        return 2
    # What was imported lives as long as the process; a request leaves few cycles behind, and many objects.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    return _guarded("serve", lambda settings: uvloop.run(run(settings, words)))


def migrate(argv: list[str]) -> int:
    """Bring the database to this version; names the installation at the first time."""
    from nubila.store.migrate import run as run_migrations  # only here: Alembic is large

    if argv:
        print("Usage: nubila migrate\n\nThe supervisor, which 'sudo make up' starts, runs it before the control plane.")
        return 0 if {"-h", "--help"} & set(argv) else 2

    def bring(settings: Settings) -> None:
        region = f"{settings.name}-{secrets.token_hex(4)}"
        print(f"database schema {run_migrations(str(settings.pg_socket_dir), region)}")

    return _guarded("migrate", bring)


def _guarded(word: str, act: Callable[[Settings], None]) -> int:
    """What is wrong around the process, and not in it, ends in a sentence: it is read in a terminal or in its log."""
    try:
        settings = config.load()
        log.setup(settings.log_level)
        os.umask(0o077)
        act(settings)
        return 0
    except errors.DatabaseAway as e:
        why = (
            f"the database of '{settings.name}' in {settings.pg_socket_dir} cannot be reached ({e.inside or e.detail})"
        )
    except config.BadSettings as e:
        why = str(e)
    except OSError as e:
        if e.errno not in OUTSIDE:
            raise
        why = str(e)
    print(f"nubila {word}: {why}. The supervisor runs this, which 'sudo make up' starts.", file=sys.stderr)
    return 1
