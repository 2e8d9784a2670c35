"""What the last answer of the control plane still allows. PURE: asked by the lanes at the moment of planning.

A right ages by the monotonic clock, so that an agent that was stopped for minutes and goes on acts on nothing old.
"""

from __future__ import annotations

import msgspec

FRESH_S = 60.0
ALONE_AFTER_S = 15.0


class Right(msgspec.Struct):
    """What the last answer of the control plane still allows; asked at the moment of planning, also after a pause."""

    began_s: float
    heard_s: float | None = None  # when the newest answer of this session came

    def fresh(self, now_s: float) -> bool:
        return self.heard_s is not None and now_s - self.heard_s < FRESH_S

    def alone(self, now_s: float) -> bool:
        """It proved to be away: nothing came since the agent began, or what came is no longer fresh."""
        return not self.fresh(now_s) and now_s - self.began_s >= ALONE_AFTER_S
