"""Draws docs/states/NOUN.md from the transition tables of the model: `python tools/states.py`, run by `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from nubila.model import attachment, drift, image, node, operation, vm, volume

NOUNS: dict[str, Mapping[StrEnum, frozenset[StrEnum]]] = {
    "vm": vm.TRANSITIONS,  # type: ignore[dict-item]
    "volume": volume.TRANSITIONS,  # type: ignore[dict-item]
    "attachment": attachment.TRANSITIONS,  # type: ignore[dict-item]
    "image": image.TRANSITIONS,  # type: ignore[dict-item]
    "node": node.TRANSITIONS,  # type: ignore[dict-item]
    "operation": operation.TRANSITIONS,  # type: ignore[dict-item]
    "drift": drift.TRANSITIONS,  # type: ignore[dict-item]
}


def drawn(noun: str) -> str:
    table = NOUNS[noun]
    lines = [
        f"# States of {'an' if noun[0] in 'aeiou' else 'a'} {noun}",
        "",
        "Drawn from the table that the database enforces; do not edit.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    lines += [f"    [*] --> {next(iter(table)).value}"]
    for was, becomes in table.items():
        lines += [f"    {was.value} --> {b.value}" for b in sorted(becomes)]
        if not becomes:
            lines.append(f"    {was.value} --> [*]")
    return "\n".join([*lines, "```", ""])


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for noun in NOUNS:
        (directory / f"{noun}.md").write_text(drawn(noun))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/states"))
