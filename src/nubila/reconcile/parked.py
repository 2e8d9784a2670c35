"""Objects that background work cannot be done on: set aside after a few tries, with the reason, so that others go on."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

TRIES = 3
PARKED_S = 600.0  # then one more try: what was wrong may have been repaired

Thing = tuple[str, str]  # noun, id


class Trouble(msgspec.Struct, frozen=True):
    tries: int
    reason: str
    until_s: float  # parked until then, by the clock that was given; 0.0: not yet


class Parked:
    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._troubles: dict[Thing, Trouble] = {}

    def failed(self, thing: Thing, reason: str) -> bool:
        """Remember it; true when the thing is parked by this."""
        before = self._troubles.get(thing)
        tries = 1 if before is None else before.tries + 1
        parked = tries >= TRIES
        self._troubles[thing] = Trouble(tries, reason, self._clock() + PARKED_S if parked else 0.0)
        return parked

    def succeeded(self, thing: Thing) -> None:
        self._troubles.pop(thing, None)

    def of(self, noun: str) -> list[str]:
        """Ids of what is to be left alone for now."""
        now_s = self._clock()
        return [i for (n, i), trouble in self._troubles.items() if n == noun and trouble.until_s > now_s]

    def reason(self, thing: Thing) -> str | None:
        trouble = self._troubles.get(thing)
        return None if trouble is None else trouble.reason
