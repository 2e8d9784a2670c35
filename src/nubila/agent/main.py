"""The composition of an agent from the settings: the word `agent` of the entry table.

It decides which drivers run, waits for a join token where there is no identity yet, and ends cleanly on SIGTERM: vms,
libvirtd and dnsmasq stay. When too many calls have hung it executes itself anew and adopts everything.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from nubila.agent import enrol, host
from nubila.agent.hands import Drivers
from nubila.agent.node import Agent, Options
from nubila.client.answers import ConnectionFailed, ProblemError
from nubila.client.transport import Transport
from nubila.config import BadSettings, Settings, load
from nubila.protocol import Hello
from nubila.telemetry import log

LOG = log.get(part="agent")

ENROL_AGAIN_S = (0.2, 0.5, 1.0, 2.0, 5.0)
RENEWAL_CHECK_S = 600.0
RENEWAL_AGAIN_S = 10.0
WIRE_TIMEOUT_S = 30.0
SWITCH_INTERVAL_S = 0.0005  # the event loop waits no longer than this for a busy worker


class Node(msgspec.Struct, kw_only=True):
    """One node to be: most processes hold one, benchmarks several."""

    suffix: str  # '' for the machine itself
    directory: Path
    token_file: Path
    line: int  # of the token file
    fqdn: str


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="nubila agent", description="Run this machine's agent.")
    parser.add_argument("--config", type=Path, help="settings file (TOML)")
    parser.add_argument("--join-token-file", type=Path, help="default: join-token in the node's directory")
    parser.add_argument(
        "--name-suffix", default="", help="an agent beside others of this installation: fake drivers only"
    )
    parser.add_argument(
        "--nodes", type=int, default=1, help="so many fake nodes in this process, a token per line of the file"
    )
    arguments = parser.parse_args(argv)
    try:
        settings = load(arguments.config)
    except BadSettings as e:
        parser.error(str(e))
    log.setup(settings.log_level)
    if settings.drivers != "fake" and (arguments.nodes > 1 or arguments.name_suffix):
        parser.error("several agents on one machine need drivers = 'fake'")
    if settings.drivers != "fake" and os.geteuid() != 0:
        parser.error("it runs as root; 'sudo make up' starts it")
    return run(settings, nodes(settings, arguments.name_suffix, arguments.nodes, arguments.join_token_file))


def nodes(settings: Settings, suffix: str, count: int, token_file: Path | None) -> list[Node]:
    found = []
    for n in range(count):
        own = suffix if count == 1 else f"{suffix}{n + 1}"
        directory = settings.node_dir if not own else settings.node_dir.with_name(f"{settings.node_dir.name}-{own}")
        name = os.uname().nodename
        token = token_file or directory / "join-token"
        line = n if token_file is not None else 0
        found.append(
            Node(suffix=own, directory=directory, token_file=token, line=line, fqdn=f"{name}-{own}" if own else name)
        )
    return found


def run(settings: Settings, wanted: list[Node]) -> int:
    """Until SIGTERM, or until another agent has the same identity."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    signal.signal(signal.SIGTERM, _leave)
    for node in wanted:
        node.directory.mkdir(parents=True, exist_ok=True, mode=0o711)
        node.directory.chmod(0o711)  # each vm's user reaches its own directory below
    try:
        identities = [_identity(settings, node) for node in wanted]
    except SystemExit:
        return 0
    for file in {node.token_file for node in wanted}:
        file.unlink(missing_ok=True)
    code = asyncio.run(_run(settings, list(zip(wanted, identities, strict=True))))
    if code is None:
        LOG.warning("agent.executes-itself-anew")
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
    return code


def _leave(signum: int, frame: object) -> None:
    raise SystemExit(0)


def _identity(settings: Settings, node: Node) -> enrol.Identity:
    """This node's identity; without one, wait for a join token as long as it takes."""
    failures, said = 0, ""
    while True:
        directory = node.directory / "identity"
        identity = enrol.load(directory)
        if identity is not None:
            return identity
        try:
            identity = enrol.enrol(directory, settings.internal_url, node.token_file, node.fqdn, line=node.line)
            LOG.info("node.enrolled", node_id=identity.node_id)
            return identity
        except (enrol.NotEnrolled, ConnectionFailed, ProblemError) as e:
            if str(e) != said:
                said = str(e)
                LOG.warning("node.not-enrolled", reason=said)
        failures = min(failures + 1, len(ENROL_AGAIN_S)) if node.token_file.exists() else 1
        time.sleep(ENROL_AGAIN_S[failures - 1])


def _wire(settings: Settings, identity: enrol.Identity) -> Transport:
    return Transport(
        settings.internal_url,
        ca=identity.ca,
        certificate=identity.certificate,
        key=identity.certificate,
        timeout_s=WIRE_TIMEOUT_S,
    )


async def _run(settings: Settings, wanted: list[tuple[Node, enrol.Identity]]) -> int | None:
    loop = asyncio.get_running_loop()
    over: asyncio.Future[int | None] = loop.create_future()

    def ended(code: int | None) -> None:
        if not over.done():
            over.set_result(code)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, ended, 0)
    agents = [_agent(loop, settings, node, identity, ended) for node, identity in wanted]
    for agent in agents:
        agent.start()
    renewals = [
        loop.create_task(_renew_forever(settings, agent, node, identity))
        for agent, (node, identity) in zip(agents, wanted, strict=True)
    ]
    code = await over
    for task in renewals:
        task.cancel()
    for agent in agents:
        await agent.close(stuck=code is None)
    return code


def _agent(
    loop: asyncio.AbstractEventLoop,
    settings: Settings,
    node: Node,
    identity: enrol.Identity,
    ended: Callable[[int | None], None],
) -> Agent:
    fake = settings.drivers == "fake"
    drivers, names = fakes(node.directory) if fake else _real(settings)
    options = Options(
        region=identity.region,
        installation=settings.name,
        directory=node.directory,
        long_poll_s=settings.long_poll_s,
        workers=settings.agent_workers,
        metadata_port=None if fake else 80,
        real_rooms=not fake,
        name=node.suffix,
    )

    def hello() -> Hello:
        if not fake:
            _probe(settings, drivers)
        address = host.address_towards(settings.internal_url)
        return host.hello(drivers, names, _version(), node.fqdn, fake=fake, address=address)

    return Agent(loop, options, _wire(settings, identity), drivers, hello, ended)


async def _renew_forever(settings: Settings, agent: Agent, node: Node, identity: enrol.Identity) -> None:
    """The link goes on with the new certificate; what is under way ends on the old one."""
    while True:
        pause_s = RENEWAL_CHECK_S
        try:
            if enrol.renewal_due(identity, datetime.now(UTC)):
                directory = node.directory / "identity"
                identity = await asyncio.to_thread(enrol.renew, directory, agent.link.wire, node.fqdn)
                agent.link.use(_wire(settings, identity))
                LOG.info("certificate.renewed")
        except (ConnectionFailed, ProblemError) as e:
            LOG.warning("certificate.not-renewed", reason=str(e))
            pause_s = RENEWAL_AGAIN_S
        except Exception:
            LOG.exception("certificate.not-renewed")
        await asyncio.sleep(pause_s)


def fakes(directory: Path) -> tuple[Drivers, dict[str, str]]:
    """Worlds that outlive the agent, so that it adopts them as it would real ones."""
    from nubila.drivers.hypervisor.fake import FakeHypervisor
    from nubila.drivers.hypervisor.fake_world import HypervisorWorld
    from nubila.drivers.network.fake import FakeNetwork, NetworkWorld
    from nubila.drivers.storage.fake import FakeStorage, StorageWorld

    world = directory / "fake"
    domains, disks = HypervisorWorld(world / "domains"), StorageWorld(world / "volumes")
    domains.storage = disks
    drivers = Drivers(
        hypervisor=FakeHypervisor(domains),
        storage=FakeStorage(disks),
        network=FakeNetwork(NetworkWorld(world / "networks")),
    )
    return drivers, {"hypervisor": "fake", "storage": "fake", "network": "fake"}


def _real(settings: Settings) -> tuple[Drivers, dict[str, str]]:
    from nubila.drivers import registry
    from nubila.drivers.hypervisor import DRIVERS as HYPERVISORS
    from nubila.drivers.hypervisor import base as hypervisor
    from nubila.drivers.hypervisor.several import Several
    from nubila.drivers.network import DRIVERS as NETWORKS
    from nubila.drivers.network import base as network
    from nubila.drivers.storage import DRIVERS as STORAGES
    from nubila.drivers.storage import base as storage

    directory = settings.node_dir
    drivers = Drivers(
        hypervisor=Several(
            {
                name: registry.load(HYPERVISORS, name)(
                    hypervisor.Options(), directory, settings.node_run_dir, settings.name
                )
                for name in ("libvirt", "lxc")
            }
        ),
        storage=registry.load(STORAGES, "directory")(
            storage.Options(directory=str(directory / "disks"), helper_uid=settings.helper_uid)
        ),
        network=registry.load(NETWORKS, "bridge")(
            network.Options(table=settings.name, directory=str(directory / "network"))
        ),
    )
    return drivers, {"hypervisor": "libvirt", "storage": "directory", "network": "bridge"}


def _probe(settings: Settings, drivers: Drivers) -> None:
    """Which virt methods really boot a guest here. It may take seconds once per boot of the host, so it runs in the
    link's thread before a session opens, and delays no adopting and serving."""
    from nubila.agent import probe
    from nubila.drivers import DriverError
    from nubila.drivers.hypervisor.kvm import probe_kvm
    from nubila.drivers.hypervisor.lxc_xml import METHOD
    from nubila.drivers.hypervisor.several import Several

    directory, release = settings.node_dir / "kvm", os.uname().release
    pairs = (  # what was put there for this, else what this machine itself boots
        (directory / "vmlinuz", directory / "initrd.gz"),
        (Path(f"/boot/vmlinuz-{release}"), Path(f"/boot/initrd.img-{release}")),
    )
    kernel, initrd = next((p for p in pairs if p[0].exists() and p[1].exists()), (None, None))
    usable, reason = probe_kvm(kernel, initrd, directory / "answer")
    LOG.info("kvm.probed", usable=usable, reason=reason)
    several = drivers.hypervisor
    assert isinstance(several, Several)
    if usable:
        several.drivers["libvirt"].use_methods(("kvm", "qemu"))  # type: ignore[attr-defined]
    lxc: Any = several.drivers["lxc"]
    try:
        lacks = lxc.lacks()
    except DriverError as e:  # our libvirtd does not answer now: machines have to wait too
        lacks = e.reason
    usable, reason = probe.containers(lxc, lacks, settings.node_dir / "lxc")
    LOG.info("lxc.probed", usable=usable, reason=reason)
    lxc.use_methods((METHOD,) if usable else (), "" if usable else reason)


def _version() -> str:
    try:
        return version("nubila")
    except PackageNotFoundError:
        return "0"
