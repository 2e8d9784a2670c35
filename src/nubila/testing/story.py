"""What happened in a schedule, line by line: time, who, what. For people who read why a seed failed."""

from __future__ import annotations

from nubila.testing.stage import Stage


class Story:
    def __init__(self, stage: Stage):
        self._stage = stage
        self.lines: list[tuple[float, str, str]] = []

    def tell(self, who: str, what: str) -> None:
        self.lines.append((self._stage.now_s, who, what))

    def text(self, last: int | None = None) -> str:
        shown = self.lines if last is None else self.lines[-last:]
        return "\n".join(f"{int(at // 60):3d}:{at % 60:06.3f}  {who:<4} {what}" for at, who, what in shown)
