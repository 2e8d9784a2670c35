"""What `make up` says in the end, and what it leaves in the clone: build/up.json and build/contexts.json, mode 0600.

The context is the CLI's: the first user, and the first operator. Invariant: no token is printed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nubila.bootstrap.addresses import reached
from nubila.bootstrap.contexts import FILE, read, with_entry
from nubila.bootstrap.install import Install, give_to_clone_owner

UNSAID = ("operator_token", "user_token", "console", "current")  # not in up.json


def remember(install: Install, shown: dict[str, Any]) -> None:
    shown["current"] = contexts(install, shown)
    kept = {k: v for k, v in shown.items() if k not in UNSAID}
    kept["contexts"] = str(install.build / FILE)
    write(install.clone, install.build / "up.json", kept)


def contexts(install: Install, shown: dict[str, Any]) -> str:
    """The client's file, so that ./nubila works; returns the name of its current context."""
    apis, ca_file = shown["apis"], shown["ca_file"]
    context = {
        "name": shown["name"],
        "user_url": apis["user"],
        "operator_url": apis["operator"],
        "ca": ca_file,
        "user_token": shown["user_token"],
        "operator_token": shown["operator_token"],
        "project": shown["project"],
        "ssh_key": str(install.build / "ssh" / "id_ed25519"),
    }
    file = install.build / FILE
    merged = with_entry(read(file), context)
    write(install.clone, file, merged)
    return str(merged["current"])


def text(install: Install, shown: dict[str, Any]) -> str:
    lines = []
    if vm := shown.get("vm"):
        method = {"kvm": "KVM (hardware)", "qemu": "QEMU (software: KVM boots no guest here)"}
        how = method.get(str(vm["virt_method"]), vm["virt_method"])
        lines += ["", f"VM {vm['name']} ({vm['id']}) is {vm['state']}, by {how}. Its console ends with:"]
        lines += [f"  | {line}" for line in str(shown["console"]).splitlines()]
        if shown["ssh"]:
            lines += ["", "Go in with:", "", str(shown["ssh"])]
    lines += [
        "",
        f"User API      {shown['apis']['user']}",
        f"Operator API  {shown['apis']['operator']}",
        f"CA            {shown['ca_file']}",
        f"Credentials   {install.build / 'contexts.json'} (used by ./nubila)",
        f"All of this   {install.build / 'up.json'}",
    ]
    if others := _elsewhere(install):
        lines.insert(-2, others)
    if (name := shown["name"]) != shown["current"]:
        lines += [
            "",
            f"./nubila goes on speaking to '{shown['current']}'. For this one: '--context {name}' with a command, or once "
            f"'./nubila context use {name}'.",
        ]
    return "\n".join(lines)


def _elsewhere(install: Install) -> str:
    """Where others reach the user API, unless only this machine does."""
    settings = reached(install.settings)
    url = settings.elsewhere(settings.user_port)
    return f"For others    {url}" if url != settings.user_url else ""


def write(clone: Path, path: Path, value: dict[str, Any]) -> None:
    """Only when it differs, so that a second `make up` changes nothing."""
    body = json.dumps(value, indent=1) + "\n"
    if path.is_file() and path.read_text() == body:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w") as f:
        f.write(body)
    give_to_clone_owner(new, clone)
    new.rename(path)
