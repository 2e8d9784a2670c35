"""The agents of these tests look at their worlds more often than real ones, so that the tests are short."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nubila.agent.observer.HYPERVISOR_S", 0.2)
    monkeypatch.setattr("nubila.agent.plan.CRASH_BACKOFF_S", (0.3, 0.6, 1.2))
