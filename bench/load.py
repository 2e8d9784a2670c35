"""The load generator, a process of its own: keeps n creates in flight and notes when GET shows each vm running.

`python -m bench.load CONFIG.json`: prints one JSON line with the latencies (ms) and its own CPU seconds.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any

import uvloop


class Connection:
    """One keep-alive HTTP/1.1 connection, just enough of it to cost little."""

    def __init__(self, port: int, context: ssl.SSLContext, token: str):
        self.port, self.context = port, context
        self.head = f"host: 127.0.0.1\r\nauthorization: Bearer {token}\r\n"

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.context)

    async def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        more = "" if body is None else f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{self.head}{more}\r\n".encode() + (body or b""))
        head = await self.reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = 0
        for line in head.split(b"\r\n")[1:]:
            if line[:15].lower() == b"content-length:":
                length = int(line[15:])
        content = await self.reader.readexactly(length) if length else b""
        return status, json.loads(content) if content else None


async def one(c: Connection, name: str, accepted: list[float], running: list[float]) -> str:
    body = json.dumps({"name": name, "flavor": "tiny", "image": "mini"}).encode()
    begin = time.perf_counter()
    status, answer = await c.call("POST", "/v1/vms", body)
    if status != 201:
        raise RuntimeError(f"{status} {answer}")
    accepted.append((time.perf_counter() - begin) * 1e3)
    op, vm = answer["operation"]["id"], answer["vm"]["id"]
    waited, told = await c.call("GET", f"/v1/operations/{op}?wait=30")
    status, answer = await c.call("GET", f"/v1/vms/{vm}")
    if answer["state"] != "running":
        seconds = time.perf_counter() - begin
        raise RuntimeError(f"{seconds:.1f} s after its create {name} is {answer}; its operation: {waited} {told}")
    running.append((time.perf_counter() - begin) * 1e3)
    return str(vm)


async def main(config: dict[str, Any]) -> None:
    context = ssl.create_default_context(cafile=config["ca"])
    connections = [Connection(config["port"], context, config["token"]) for _ in range(config["parallel"])]
    for c in connections:
        await c.open()
    accepted: list[float] = []
    running: list[float] = []
    vms: list[str] = []
    numbers = iter(range(config["count"]))

    async def worker(c: Connection) -> None:
        for n in numbers:
            vms.append(await one(c, f"{config['prefix']}{n}", accepted, running))

    begin = time.perf_counter()
    await asyncio.gather(*(worker(c) for c in connections))
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {"seconds": seconds, "accepted": accepted, "running": running, "vms": vms, "cpu_s": time.process_time()}
        )
    )


if __name__ == "__main__":
    uvloop.run(main(json.loads(Path(sys.argv[1]).read_text())))
