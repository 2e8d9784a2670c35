"""What reaches into a VM: its console's output, and ssh. Both are verbs of `nubila vm`."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
import sys
from typing import Annotated

from cyclopts import Parameter

from nubila.cli import columns, exits, table
from nubila.cli.exits import Failure
from nubila.cli.options import Common, named
from nubila.cli.session import Session
from nubila.cli.terminal import clean
from nubila.client.calls import Json

_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
CONSOLE_BYTES = 65536


def console(
    vm: Annotated[str, named("vm")],
    /,
    *,
    max_bytes: Annotated[int, Parameter(name="--bytes", help="How much of its end.")] = CONSOLE_BYTES,
    raw: Annotated[
        bool, Parameter(negative="", show_default=False, help="As the guest wrote it, with terminal sequences.")
    ] = False,
    options: Common = Common(),
) -> int:
    """Print what a VM wrote to its console last. Terminal control sequences are left out."""
    data = Session(options).user.vm_console(vm, max_bytes=max_bytes)
    if options.as_json:
        print(json.dumps({"vm": vm, "console": data.decode("utf-8", "replace")}, indent=2))
    elif raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        text = clean(data.decode("utf-8", "replace"))
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
    return exits.OK


def ssh(
    vm: Annotated[str, named("vm")],
    /,
    *command: Annotated[str, Parameter(help="After '--': run this instead of a shell.", allow_leading_hyphen=True)],
    login: Annotated[str | None, Parameter(help="Log in as; the image's own account if not given.")] = None,
    key: Annotated[str | None, Parameter(help="Private key file; the context's if not given.")] = None,
    show: Annotated[
        bool, Parameter(name="--print", negative="", show_default=False, help="Print the command, do not run it.")
    ] = False,
    options: Common = Common(),
) -> int:
    """Open a shell in a VM, or run a command there, by ssh.

    Host keys are kept for each VM by its id, beside the contexts file, so that a reused address is no false alarm.
    """
    session = Session(options)
    found = session.user.vm(vm)
    if not (show or options.as_json):
        _reachable(found)
    line = _line(session, found, login or login_of(session, found), key, command)
    if options.as_json:
        print(json.dumps({"vm": found["id"], "command": line}, indent=2))
        return exits.OK
    if show:
        print(shlex.join(line))
        return exits.OK
    sys.stdout.flush()
    try:
        os.execvp(line[0], line)  # noqa: S606
    except OSError as e:
        raise Failure(f"ssh cannot be run: {e.strerror}.", fix="Install the OpenSSH client.") from None


def _line(session: Session, vm: Json, login: str, key: str | None, command: tuple[str, ...]) -> list[str]:
    if not _LOGIN.fullmatch(login):
        raise Failure("The login is not an account's name.", fix="Give it with --login.", code=exits.USAGE)
    private = session.contexts.resolve(session.context.ssh_key) if key is None else key
    return command_line(
        address_of(vm),
        login,
        str(vm["id"]),
        str(session.contexts.known_hosts),
        None if private is None else str(private),
        command,
    )


def _reachable(vm: Json) -> None:
    """Refuse where ssh cannot get through, and say so where it may not yet: ssh itself would only say 'no route'."""
    name, state = clean(str(vm.get("name"))), str(vm.get("state"))
    if state not in ("running", "rebooting", "starting", "unknown", "None"):
        raise Failure(
            f"VM '{name}' is {state}.",
            fix=f"`nubila vm start {name}`" if state == "stopped" else f"`nubila vm show {name}` says why.",
            code=exits.CONFLICT,
        )
    guest = table.pick(vm, "guest") or {}
    if state != "None" and isinstance(guest, dict) and not (guest.get("addressed_at") or guest.get("agent")):
        print(
            f"{name} shows no sign of its guest yet: it may still be booting. `nubila vm console {name}` shows how far it is.",
            file=sys.stderr,
        )


def command_line(
    address: str, login: str, vm_id: str, known_hosts: str, key: str | None, command: tuple[str, ...]
) -> list[str]:
    """The ssh command. '%' is doubled, since ssh expands it in paths."""
    hosts = known_hosts.replace("%", "%%")
    words = ["ssh", "-o", "StrictHostKeyChecking=accept-new", "-o", f'UserKnownHostsFile="{hosts}"']
    words += ["-o", f"HostKeyAlias={vm_id}"]
    if key:
        words += ["-i", key, "-o", "IdentitiesOnly=yes"]
    return [*words, "-l", login, "--", address, *command]


def address_of(vm: Json) -> str:
    """The address to connect to: IPv4 before IPv6."""
    found = []
    for text in columns.addresses(vm):
        try:
            found.append(ipaddress.ip_address(text.split("/")[0]))
        except ValueError:
            continue
    if not found:
        raise Failure(
            "This VM has no address.",
            fix="`nubila vm show` says what it waits for.",
            code=exits.CONFLICT,
        )
    return str(min(found, key=lambda a: a.version))


def login_of(session: Session, vm: Json) -> str:
    """The account that the VM's image gives its keys to."""
    wanted = {vm.get("image"), vm.get("image_id"), table.pick(vm, "image_id")} - {None}
    if table.pick(vm, "login"):
        return str(table.pick(vm, "login"))
    for image in session.user.images():
        if image.get("id") in wanted or image.get("name") in wanted:
            return str(table.pick(image, "login") or "root")
    return "root"
