"""An answer that lay there while the machine stood still says what was wished then: it is not believed."""

from __future__ import annotations

import pytest
from agent_control import Control, vm
from agent_machine import Machine, on, until

from nubila.agent import link
from nubila.agent.link import judge
from nubila.agent.wish import Floor
from nubila.protocol import Wanted

ANSWER = Wanted(region="r", fabric_epoch=1, timeline=1, session=1, revision=1)


@pytest.mark.parametrize(("late", "verdict"), [(False, "take"), (True, "that came too late")])
def test_f27_an_answer_that_lay_longer_than_anybody_waits_is_ignored(late: bool, verdict: str) -> None:
    assert judge(ANSWER, session=1, region="r", floor=Floor(), since=0, late=late) == verdict


async def test_f27_what_came_too_late_changes_nothing_and_is_asked_for_again(
    machine: Machine, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = vm()
    monkeypatch.setattr(link, "POLL_SLACK_S", -1e9)  # whatever comes, the machine stood still meanwhile
    control.wish(wish)
    with pytest.raises(AssertionError):
        await until(lambda: machine.running(wish.vm_id), within_s=1.0)
    monkeypatch.setattr(link, "POLL_SLACK_S", 15.0)
    await until(on(control, wish), within_s=15.0)
