"""`nubila audit`: whether the record of all changes is what was written (operators)."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from nubila.cli import exits, flow, table
from nubila.cli.options import Common, noun, verb
from nubila.cli.session import Session
from nubila.cli.terminal import line
from nubila.client.calls import Json

app = noun("audit", "The record of all changes (operators).")


@verb(app, "verify", "nubila audit verify", "nubila audit verify --anchor 1.4711.9f86d0...")
def verify(
    *,
    anchor: Annotated[
        list[str] | None, Parameter(negative="", help="A seal that you noted earlier, EPOCH.BLOCK.HASH; repeatable.")
    ] = None,
    options: Common = Common(),
) -> int:
    """Compare the change log with its seals, and with what the nodes saw of them; exit code 1 if it was tampered with."""
    found = Session(options).operator.audit(tuple(anchor or ()))
    if options.json:
        flow.print_json(found)
    else:
        print(_words(found))
    return exits.OK if found.get("sound") else exits.FAILED


def _words(found: Json) -> str:
    told = found.get("findings") or []
    parts = [f"{line(f.get('what'))}: {line(f.get('detail'))}{_about(f)}" for f in told]
    verdict = "The change log is sound" if found.get("sound") else "The change log is NOT what was written"
    counts = f"{found.get('rows')} rows, {found.get('seals')} seals, {found.get('unsealed_rows')} rows not sealed yet"
    parts.append(f"{verdict}: {counts}.")
    parts.append(f"Note this seal elsewhere, to prove it later: {table.cell(found.get('head'))}")
    return "\n".join(parts)


def _about(f: Json) -> str:
    about = [line(f[k]) for k in ("kind", "id", "actor") if f.get(k)]
    return f" ({' '.join(about)})" if about else ""
