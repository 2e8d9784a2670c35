"""`nubila keypair`: the SSH public keys of a project. A private key never leaves this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nubila.cli import exits, flow, history, values
from nubila.cli.exits import Failure
from nubila.cli.options import Listing, Past, Write, named, noun, source, verb
from nubila.cli.session import Session
from nubila.client.answers import ProblemError

app = noun("keypair", "SSH public keys that VMs let in.")

Keypair = Annotated[str, named("keypair", "Name or id of the key pair.")]


@verb(
    app,
    "create",
    "nubila keypair create laptop ~/.ssh/id_ed25519.pub",
    "ssh-add -L | head -1 | nubila keypair create agent -",
    "nubila keypair create laptop --generate ~/.ssh/nubila",
)
def create(
    name: str,
    public_key: Annotated[str | None, source("File with the public key, or '-'.")] = None,
    /,
    *,
    generate: Annotated[
        Path | None,
        Parameter(help="Make a new pair with ssh-keygen: the private key here, the public one in PATH.pub."),
    ] = None,
    options: Write = Write(),
) -> int:
    """Register a public key, from a file or newly made."""
    if (public_key is None) == (generate is None):
        raise Failure("Give either a file with a public key, or --generate PATH.", code=exits.USAGE)
    session = Session(options)
    source = str(_generated(generate.expanduser(), name)) if generate is not None else str(public_key)
    key = values.text(source, "public key").strip()
    if "PRIVATE KEY" in key:
        raise Failure(
            f"{source} holds a private key, which must not leave this machine.",
            fix="Give the public key: the file whose name ends in .pub.",
            code=exits.USAGE,
        )
    body = {"name": name, "public_key": key}
    try:
        return flow.change(lambda how: session.user.create_keypair(body, how), options, session, "created")
    except ProblemError:
        if generate is not None:  # refused: the same line, mended, makes a new pair
            for made in (generate.expanduser(), Path(source)):
                made.unlink(missing_ok=True)
        raise


@verb(app, "list", "nubila keypair list")
def list_(*, options: Listing = Listing()) -> int:
    """List key pairs."""
    session = Session(options)
    return flow.listing("keypair", lambda: session.user.keypairs(options.find()), options, "user")


@verb(app, "show", "nubila keypair show laptop")
def show(keypair: Keypair, /, *, options: Past = Past()) -> int:
    """Show a key pair."""
    return flow.one(Session(options).user.keypair(keypair), options)


@verb(app, "delete", "nubila keypair delete laptop")
def delete(keypair: Keypair, /, *, options: Write = Write()) -> int:
    """Delete a key pair. VMs that have the key keep it."""
    session = Session(options)
    return flow.change(lambda how: session.user.delete_keypair(keypair, how), options, session, "deleted")


def _generated(path: Path, name: str) -> Path:
    """The public half of a new pair. An existing file is never overwritten."""
    public = path.with_name(path.name + ".pub")
    if path.exists() or public.exists():
        raise Failure(f"{path} or {public} exists.", fix="Choose another path, or use the existing key.")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as e:
        raise Failure(f"ssh-keygen cannot be run: {e.strerror}.", fix="Install the OpenSSH client.") from None
    if done.returncode != 0:
        raise Failure(f"ssh-keygen failed: {done.stderr.strip() or done.stdout.strip()}")
    return public


history.of(app, "keypair", "keypairs")
