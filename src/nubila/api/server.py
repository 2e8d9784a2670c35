"""The listeners of a process: TLS, bounds, and an end that loses no answer. Called by the composition root.

uvicorn parses and writes HTTP; binding, watching and stopping are done here, so that several planes share one loop,
one clock tick and one stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import formatdate

from uvicorn import Config
from uvicorn.server import ServerState

from nubila.access.authority import SERVER_LIFETIME, Authority
from nubila.api.app import App
from nubila.api.connection import PeerCertProtocol
from nubila.telemetry import log

X509_V_FLAG_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # OpenSSL's; Python has no name for it
KEEP_ALIVE_S = 65
HANDSHAKE_TIMEOUT_S = 10.0
GOODBYE_TIMEOUT_S = 5.0
BACKLOG = 2048
TICK_S = 1.0

# uvicorn's own lines tell nothing that the app's do not, and anybody could fill the log with them.
logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)


class Tls:
    """A listener's TLS. Its key lives only in memory; a new one is made when half of the certificate's life is over."""

    def __init__(self, authority: Authority, names: Sequence[str], clock: Callable[[], datetime], *, peers: bool):
        """`peers`: ask clients for a certificate of our CA (the internal plane); which routes need one, policy says."""
        self._authority, self._names, self._clock = authority, names, clock
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.context.options |= ssl.OP_NO_RENEGOTIATION
        if peers:
            self.context.minimum_version = ssl.TLSVersion.TLSv1_3
            self.context.verify_mode = ssl.CERT_OPTIONAL
            self.context.load_verify_locations(cadata=authority.ca_pem)
            self.context.num_tickets = 0  # a resumed session would not be verified again
            # Whether a certificate is past its time is asked at every request, by the Authenticator: a lapsed one may
            # still be renewed with, since a machine that was switched off must find back by itself.
            self.context.verify_flags |= X509_V_FLAG_NO_CHECK_TIME
        self._renew_at = self._renew()

    def tick(self) -> None:
        if self._clock() >= self._renew_at:
            self._renew_at = self._renew()

    def _renew(self) -> datetime:
        now = self._clock()
        chain, key = self._authority.issue_server(self._names, now)
        handle = os.memfd_create("nubila-tls")  # OpenSSL reads files only; this one is never on a disk
        try:
            os.write(handle, chain + key)
            self.context.load_cert_chain(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)
        return now + timedelta(seconds=SERVER_LIFETIME.total_seconds() / 2)


@dataclass(slots=True)
class Listener:
    app: App
    host: str
    port: int  # 0: any free one; see `address` once started
    tls: Tls | None
    connections_max: int = 2048
    server: asyncio.Server | None = None
    state: ServerState = field(default_factory=ServerState)

    @property
    def address(self) -> tuple[str, int]:
        assert self.server is not None
        name = self.server.sockets[0].getsockname()
        return name[0], name[1]


async def serve(
    listeners: Sequence[Listener],
    stop: asyncio.Event,
    *,
    grace_s: float = 15.0,
    started: Callable[[], None] | None = None,
) -> None:
    """Serves until `stop` is set. Raises OSError, naming the port, when one cannot be listened on."""
    try:
        for listener in listeners:
            await _listen(listener)
        _tick(listeners)
        if started is not None:
            started()
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), TICK_S)
            except TimeoutError:
                _tick(listeners)
    finally:
        await _end(listeners, grace_s)


async def _listen(listener: Listener) -> None:
    config = Config(
        listener.app,
        http=PeerCertProtocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # otherwise whoever comes from loopback could claim any address
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    config.load()

    def connection() -> PeerCertProtocol:
        made = PeerCertProtocol(config, listener.state, {})
        made.connections_max = listener.connections_max
        return made

    listener.server = await asyncio.get_running_loop().create_server(
        connection,
        listener.host,
        listener.port,
        backlog=BACKLOG,
        ssl=listener.tls.context if listener.tls else None,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if listener.tls else None,
        ssl_shutdown_timeout=GOODBYE_TIMEOUT_S if listener.tls else None,
    )
    log.get().info("listener.started", plane=str(listener.app.plane), address=list(listener.address))


def _tick(listeners: Sequence[Listener]) -> None:
    now = asyncio.get_running_loop().time()
    date = [(b"date", formatdate(usegmt=True).encode())]
    for listener in listeners:
        listener.state.default_headers = date
        for connection in list(listener.state.connections):
            if isinstance(connection, PeerCertProtocol):
                connection.check(now)
        if listener.tls is not None:
            listener.tls.tick()


async def _end(listeners: Sequence[Listener], grace_s: float) -> None:
    """No new connection, no new request; held ones are answered at once, running ones finish, within the grace."""
    for listener in listeners:
        listener.app.stop()
        if listener.server is not None:
            listener.server.close()
        for connection in list(listener.state.connections):
            connection.shutdown()
    running = {task for listener in listeners for task in listener.state.tasks}
    if running:
        _, late = await asyncio.wait(running, timeout=grace_s)
        for task in late:
            task.cancel()
        if late:
            log.get().warning("requests.cancelled", count=len(late))
            await asyncio.wait(late, timeout=1.0)
    await _hang_up(listeners)


async def _hang_up(listeners: Sequence[Listener]) -> None:
    """Waits a second for what is written to go out, then ends what is left."""
    for _ in range(20):
        if not any(listener.state.connections for listener in listeners):
            return
        await asyncio.sleep(0.05)
    for listener in listeners:
        for connection in list(listener.state.connections):
            connection.transport.abort()
