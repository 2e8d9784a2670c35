"""`nubila NOUN VERB ...`: the literal table of nouns, and where every error of a command ends.

Called by `nubila.__main__` with the command line. The first help page is made here from the table alone; anything else
imports the command parser and the one module that the noun needs.
"""

from __future__ import annotations

import errno
import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from nubila.cli import exits

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError

# noun -> module:app, words for the first help page, heading
NOUNS: dict[str, tuple[str, str, str]] = {
    "vm": ("vm:app", "virtual machines: create list show start stop reboot rename label delete ...", "Your project"),
    "operation": ("operation:app", "work under way: list show why cancel wait", "Your project"),
    "plan": ("plan:app", "what --plan planned: list show apply discard", "Your project"),
    "volume": ("volume:app", "disks: create list show attach detach resize change roll-back delete", "Your project"),
    "snapshot": ("volume:snapshot", "what disks once held: create list show delete", "Your project"),
    "events": ("events:app", "what changes, as it changes", "Your project"),
    "network": ("network:app", "networks: create list show delete", "Your project"),
    "security-group": ("security_group:app", "who may reach ports: create list show change delete", "Your project"),
    "port": ("port:app", "where VMs are connected: list show change", "Your project"),
    "keypair": ("keypair:app", "SSH public keys: create list show delete", "Your project"),
    "flavor": ("flavor:app", "sizes of VMs: list show; operators: create delete", "Your project"),
    "image": ("image:app", "what disks begin as: list show; operators: upload delete", "Your project"),
    "project": ("project:app", "show, with quota; operators: list create change delete member members", "Your project"),
    "token": ("account:token", "API tokens: create list delete", "Your project"),
    "me": ("account:me", "who you are", "Your project"),
    "node": ("node:app", "machines: list show change retire", "Operators"),
    "drift": ("drift:app", "what hosts have and nobody wishes: list show repair adopt ignore heed", "Operators"),
    "orphans": ("drift:orphans", "what was left on hosts: list", "Operators"),
    "decision": ("decision:app", "where VMs were placed, or why not: list", "Operators"),
    "parked": ("drift:parked", "what background work was set aside: list", "Operators"),
    "join-token": ("node:join_token", "let a machine join: create list delete", "Operators"),
    "user": ("account:user", "people: create list show change delete token", "Operators"),
    "operator": ("account:operator", "who operates: create list show delete token", "Operators"),
    "audit": ("audit:app", "the record of all changes: verify", "Operators"),
    "quota": ("project:quota", "what a project may hold: show set", "Operators"),
    "context": ("context:app", "installations and credentials: list use add show delete", "This command"),
    "completion": ("completion:app", "completion scripts: bash zsh fish", "This command"),
}
MACHINE = "serve agent supervise up down destroy preflight database: run Nubila on this machine; see make help"
EXAMPLES = (
    "nubila vm create web --flavor tiny --image nubila-mini --key first --plan",
    "nubila vm ssh web",
    "nubila operation why op-01k...",
)


def main(argv: list[str]) -> int:
    """Runs one command and returns its exit code; every failure has been told on standard error."""
    try:
        code = _main(argv)
        sys.stdout.flush()
        return code
    except OSError as e:
        if e.errno != errno.EPIPE:  # a full disk behind a redirection, for one
            return _unwritten(e)
        # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.OK
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return exits.INTERRUPTED


def _main(argv: list[str]) -> int:
    if argv[:1] == ["help"] and len(argv) > 1:
        argv = [*argv[1:], "--help"]
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(help_text())
        return exits.OK if argv else exits.USAGE
    if argv[0] == "--version":
        return _version()
    if argv[0] == "__complete":
        from nubila.cli import complete

        return complete.main(argv[1:])
    return _run(argv)


def _unwritten(error: OSError) -> int:
    """Standard output does not take what was to be printed; the rest of it is dropped, or the exit would fail anew."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    print(f"error: The output cannot be written: {error.strerror}.", file=sys.stderr)
    return exits.FAILED


def root() -> App:
    """The parser with every noun, none of them loaded."""
    from cyclopts import App

    from nubila.cli import help

    app = App(
        name="nubila", help=help_text(), help_format="plaintext", help_formatter=help.Formatter(), version_flags=[]
    )
    for name, (place, _, _) in NOUNS.items():
        app.command(f"nubila.cli.{place}", name=name)
    return app


def help_text() -> str:
    """The first help page."""
    lines = ["Usage: nubila NOUN VERB [ARGUMENTS] [OPTIONS]", "", "Nubila, a cloud fabric."]
    heading = ""
    for name, (_, words, under) in NOUNS.items():
        if under != heading:
            lines += ["", f"{under}:"]
            heading = under
        lines.append(f"  {name:<11} {words}")
    lines += ["", "The machine:", f"  {MACHINE}", "", "Examples:", *(f"  {e}" for e in EXAMPLES)]
    lines += ["", "Exit codes:", *(f"  {code:<4} {words}" for code, words in exits.MEANING.items())]
    lines += ["", "Environment:", "  NUBILA_CONTEXTS   the contexts file", "  NUBILA_CONTEXT    the context to use"]
    lines += ["  NO_COLOR          no colours", "", "`nubila NOUN --help` and `nubila NOUN VERB --help` say more."]
    return "\n".join(lines)


def _run(argv: list[str]) -> int:
    from cyclopts import CycloptsError

    from nubila.cli import problem
    from nubila.cli.exits import Failure
    from nubila.client.answers import ConnectionFailed, ProblemError
    from nubila.errors import NubilaError

    try:
        return _call(argv)
    except CycloptsError as e:
        return _told(_misread(e, argv), _usage(argv), exits.USAGE)
    except Failure as e:
        return _told(e.detail, e.fix, e.code)
    except ProblemError as e:
        if _wants_json(argv):
            from nubila.cli.flow import print_json

            print_json(e.problem)
        problem.show(e)
        return exits.code_of(e)
    except ConnectionFailed as e:
        return _told(e.detail, e.how, exits.code_of(e))
    except NubilaError as e:
        return _told(e.detail, e.how, exits.USAGE)


def _call(argv: list[str]) -> int:
    from nubila.cli import help

    asked = help.wanted(argv)
    code = root()(
        argv,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
        console=help.console() if asked else None,
    )
    if asked and code is None:
        print()  # the parser leaves the last line open
    sys.stdout.flush()
    return int(code or exits.OK)


def _told(detail: str, fix: str, code: int) -> int:
    from nubila.cli import problem

    sys.stdout.flush()
    problem.text(detail)
    problem.hint(fix)
    return code


def _misread(e: CycloptsError, argv: list[str]) -> str:
    """What is wrong with the words, said without the parser's own."""
    from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

    if isinstance(e, UnusedCliTokensError) and e.unused_tokens:
        many = "is one word" if len(e.unused_tokens) == 1 else f"are {len(e.unused_tokens)} words"
        return f"{', '.join(map(repr, e.unused_tokens))} {many} too many."
    if isinstance(e, MissingArgumentError) and e.argument is not None:
        name = e.argument.name
        return f"{name} needs a value." if name in argv else f"{name} is missing."
    return str(e)


def _usage(argv: list[str]) -> str:
    known = [w for w in argv[:2] if not w.startswith("-")]
    words = known if known and known[0] in NOUNS else []
    if len(words) == 2:
        app = root()[words[0]]
        words = words if words[1] in app else words[:1]
    return f"`nubila {' '.join([*words, '--help'])}` shows how."


def _wants_json(argv: list[str]) -> bool:
    own = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in own or any(a in ("-o", "--output") and b == "json" for a, b in pairwise(own))


def _version() -> int:
    from importlib.metadata import version

    print(f"nubila {version('nubila')}")
    return exits.OK
