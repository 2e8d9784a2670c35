"""One node's agent with fake drivers, and the control plane in memory that it talks to.

The agents of these tests look at their worlds more often than real ones, so that the tests are short.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agent_control import Control
from agent_machine import Machine


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nubila.agent.observer.HYPERVISOR_S", 0.2)
    monkeypatch.setattr("nubila.agent.plan.CRASH_BACKOFF_S", (0.3, 0.6, 1.2))


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
async def machine(tmp_path: Path, control: Control) -> AsyncIterator[Machine]:
    made = Machine(tmp_path / "node", control)
    made.start()
    yield made
    control.set_down(False)
    if made.agent is not None:
        await made.stop()
