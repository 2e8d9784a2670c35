"""A process that has everything imported and forks an agent for each line that it reads: a start costs milliseconds.

`python -m tests.crash.zygote DIRECTORY INTERNAL_URL fake|real`. A line is a plan in JSON; the answer is the agent's pid. A dead
agent's exit is read by the next line. The drivers' worlds, the identity and the journal of wishes lie in DIRECTORY and stay.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from nubila.agent import enrol, garbage, host, node, observer
from nubila.agent import main as product
from nubila.agent.hands import Drivers
from nubila.agent.node import Agent, Options
from nubila.client.transport import Transport
from nubila.drivers import Leftover
from nubila.protocol import Hello
from tests.crash.boundary import Boundary, Plan
from tests.forks import serve


def fakes(directory: Path, method: str, *, litter: bool) -> tuple[Drivers, dict[str, str]]:
    """The same worlds again, each start. `litter`: with something of a vm that never was beside them."""
    drivers, names = product.fakes(directory)
    domains, disks, wires = (d.world for d in (drivers.hypervisor, drivers.storage, drivers.network))  # type: ignore[union-attr]
    domains.capabilities = msgspec.structs.replace(domains.capabilities, virt_methods=(method,))
    if litter:
        for place, kind in ((domains, "console"), (disks, "temporary"), (wires, "chain")):
            place.leftovers.left = (
                Leftover(kind=kind, name=f"{kind} of nobody", owner="vm-00000000000000000000000000"),
            )
    return drivers, names


def reals(directory: Path, method: str) -> tuple[Drivers, dict[str, str]]:
    from tests.crash.reals import drivers_of

    return drivers_of(directory, method)


async def live(directory: Path, url: str, kind: str, plan: Plan) -> None:
    identity = enrol.load(directory / "identity") or enrol.enrol(
        directory / "identity", url, directory / "token", directory.name
    )
    real = kind == "real"
    if real:
        drivers, names = reals(directory, directory.name)
    else:
        drivers, names = fakes(directory, directory.name, litter=plan.grace_s < 1)
    boundary = Boundary(plan, directory / "effects", directory / "held")
    wire = Transport(url, ca=identity.ca, certificate=identity.certificate, key=identity.certificate, timeout_s=30.0)
    options = Options(
        region=identity.region,
        installation=directory.name,
        directory=directory,
        long_poll_s=5.0,
        workers=3,
        metadata_port=None,
        real_rooms=real,
    )
    for kind in garbage.GRACE_S:
        garbage.GRACE_S[kind] = plan.grace_s
    observer.SHAPES_S = 0.3
    if plan.grace_s < 1:
        node.SWEEP_S = observer.STORAGE_S = observer.NETWORK_S = observer.SCAN_S = 0.2
    over = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def hello() -> Hello:
        return host.hello(drivers, names, "test", directory.name, fake=not real)

    agent = Agent(loop, options, wire, boundary.drivers(drivers), hello, over.set_result)
    boundary.journal(agent.wishes)
    agent.start()
    await over
    await agent.close()


def main() -> int:
    directory, url, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if kind == "real":
        from tests.crash import reals as _  # noqa: F401  what is imported here is not imported by each agent
    return serve(lambda line: asyncio.run(live(directory, url, kind, msgspec.json.decode(line, type=Plan))))


if __name__ == "__main__":
    sys.exit(main())
