"""The word `simulate`: seeds are carried out, counted and told; a seed that failed is shown as a story, with the command for it.

Exits with 1 when anything was violated: a mutant that is caught ends so too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from nubila.telemetry import log
from nubila.testing.faults import FAULTS
from nubila.testing.mutants import MUTANTS, mutated
from nubila.testing.schedule import FAULTS_EACH, HOSTS, MINUTES, Outcome, Settings, run

STORY_LINES = 60
EXAMPLES = """\
examples:
  nubila simulate                          one schedule of seed 1: 30 minutes of five hosts, in some seconds
  nubila simulate --seeds 300              three hundred of them; `make simulate SEEDS=300` does the same
  nubila simulate --seed 17 --story        seed 17 again, told line by line
  nubila simulate --mutant two-hosts --seeds 100
                                           the product broken in one place: must fail

mutants:
"""


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets is part of a schedule
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "nubila", "simulate", *argv])  # noqa: S606
    asked = _parser().parse_args(argv)
    log.setup("error", Path(os.devnull).open("wb"))  # noqa: SIM115
    seeds = range(asked.seed, asked.seed + asked.seeds)
    began_s, outcomes, caught = time.perf_counter(), [], 0
    with mutated(asked.mutant) if asked.mutant else contextlib.nullcontext():
        for seed in seeds:
            outcome = run(Settings(seed=seed, minutes=asked.minutes, hosts=asked.hosts, faults=asked.faults))
            outcomes.append(outcome)
            caught += bool(outcome.violations)
            _tell(outcome, asked, first=caught == 1)
    took_s = time.perf_counter() - began_s
    if len(seeds) > 1:
        print("\n".join(table(outcomes)))
    done = f"{len(seeds)} schedules, {caught} failed, {len(seeds) / took_s:.2f} schedules per second"
    print(done if not asked.mutant else f"{done}; mutant {asked.mutant}: caught in {caught} of {len(seeds)}")
    return 1 if caught else 0


def _parser() -> argparse.ArgumentParser:
    known = "\n".join(f"  {name:<24} {m.invariant:>3}: {m.what}" for name, m in MUTANTS.items())
    parser = argparse.ArgumentParser(
        prog="nubila simulate",
        description="Carry out seeded schedules of faults, with the product's own decisions, in virtual time. "
        "See docs/simulation.md; `make simulate` is the same.",
        epilog=EXAMPLES + known,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seeds", type=int, default=1, metavar="COUNT", help="how many, one after the other (1)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"of people and faults ({MINUTES})")
    parser.add_argument("--hosts", type=int, default=HOSTS, help=f"({HOSTS})")
    parser.add_argument("--faults", type=int, default=FAULTS_EACH, help=f"in each schedule ({FAULTS_EACH})")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), metavar="NAME", help="break the product in one place")
    parser.add_argument("--story", action="store_true", help="tell everything that happened")
    return parser


def _tell(outcome: Outcome, asked: argparse.Namespace, *, first: bool) -> None:
    """One line for each seed that failed; the first one's end as a story."""
    if asked.story:
        print(outcome.story.text())
    for violation in outcome.violations[:3]:
        print(f"seed {outcome.seed}: {violation.invariant} violated: {violation.what}")
    if outcome.violations:
        if first and not asked.story:
            print(f"... the last {STORY_LINES} lines of {len(outcome.story.lines)}:")
            print(outcome.story.text(STORY_LINES))
        print(f"again: nubila simulate {' '.join(_again(outcome.seed, asked))} --story", flush=True)


def _again(seed: int, asked: argparse.Namespace) -> Iterable[str]:
    yield f"--seed {seed}"
    for name, default in (("minutes", MINUTES), ("hosts", HOSTS), ("faults", FAULTS_EACH), ("mutant", None)):
        value = getattr(asked, name)
        if value != default:
            yield f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Kinds of fault, and beside each the operations that were open when it came."""
    met: Counter[tuple[str, str]] = sum((o.met for o in outcomes), Counter())
    faults: Counter[str] = sum((o.faults for o in outcomes), Counter())
    verbs = sorted({operation for _, operation in met})
    width = max(map(len, FAULTS))
    lines = [f"{'':{width}}  {'faults':>7}  operations that were open when it came"]
    for kind in FAULTS:
        open_then = ", ".join(f"{v} {met[kind, v]}" for v in verbs)
        lines.append(f"{kind:<{width}}  {faults[kind]:>7}  {open_then}")
    asked: Counter[str] = Counter()
    for o in outcomes:
        for (verb, answer), n in o.asked.items():
            asked[f"{verb} {answer}"] += n
    lines.append("asked and answered: " + ", ".join(f"{k} {n}" for k, n in sorted(asked.items())))
    total = f"{sum(o.virtual_s for o in outcomes) / 3600:.1f} h of virtual time"
    effects = sum(sum(o.effects.values()) for o in outcomes)
    vms, commits = (sum(getattr(o, f) for o in outcomes) for f in ("vms", "commits"))
    lines.append(f"{total}, {vms} vms, {commits} commits, {effects} side effects")
    return lines
