"""One pass of the reconcile loop in a process of its own, which dies around its first commit or makes it twice.

`python -m tests.store.reconciler SOCKET DATABASE before|after|twice`
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Any

from nubila.fleet.fleet import Fleet
from nubila.intent.carry import Carrier
from nubila.main import mint
from nubila.reconcile.loop import Loop
from nubila.store.database import Database
from nubila.store.node import NodeStore
from nubila.store.notify import Hub, Notifier
from nubila.store.work import WorkStore


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the kernel needs a moment; nothing more is done in it


async def main(socket: str, name: str, mode: str) -> None:
    database = await Database.open(host=socket, database=name, size=2)
    commit = database._commit

    async def committed(encoded: str) -> Any:
        if mode == "before":
            die()
        answer = await commit(encoded)
        if mode == "after":
            die()
        return await commit(encoded) if mode == "twice" else answer

    database._commit = committed  # type: ignore[method-assign]
    notifier = Notifier(Hub(), {"host": socket, "user": "nubila", "database": name}, enabled=False)
    carrier = Carrier(database, notifier, Fleet(NodeStore(database)), mint)
    await Loop(carrier, WorkStore(database), f"test {mode}").once()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
