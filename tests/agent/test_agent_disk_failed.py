"""F31: a disk that cannot be written. The vm stands still, that is said with its reason, and it goes on by itself."""

from __future__ import annotations

import asyncio

import pytest
from agent_control import Control, vm
from agent_machine import Machine, on, until

from nubila.agent import account, plan
from nubila.protocol import Vm, VmReport


@pytest.fixture(autouse=True)
def _try_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "IO_AGAIN_S", 0.1)


def stands_still(report: VmReport | None) -> bool:
    return report is not None and report.paused == "io-error" and report.failing


async def with_a_full_disk(machine: Machine, control: Control) -> Vm:
    wish = vm()
    control.wish(wish)
    await until(on(control, wish))
    machine.domains.disk_fails.add(wish.vm_id)
    machine.domains.write(wish.vm_id)
    await until(lambda: stands_still(control.reports.get(wish.vm_id)))
    return wish


async def test_f31_a_vm_whose_disk_is_full_stands_still_says_so_and_goes_on(machine: Machine, control: Control) -> None:
    wish = await with_a_full_disk(machine, control)
    said = control.reports[wish.vm_id]
    assert (said.power, said.reason) == ("on", account.DISK_FAILED)
    tries = machine.domains.script.calls["resume"]
    await until(lambda: machine.domains.script.calls["resume"] >= tries + 3)
    assert stands_still(control.reports[wish.vm_id])  # it is not said to run in between
    await machine.kill()
    machine.start()
    machine.domains.disk_fails.clear()
    await until(lambda: control.reports[wish.vm_id].paused is None and not control.reports[wish.vm_id].failing)
    assert machine.domain(wish.vm_id).paused is None
    assert machine.boots(wish.vm_id) == 1  # what it had in memory it still has
    assert control.reports[wish.vm_id].reason is None


async def test_f31_it_can_be_stopped_and_is_not_let_go_on_against_a_wish(machine: Machine, control: Control) -> None:
    wish = await with_a_full_disk(machine, control)
    control.change(wish.vm_id, suspended=True)
    await asyncio.sleep(0.3)
    tries = machine.domains.script.calls["resume"]
    await asyncio.sleep(0.4)
    assert machine.domains.script.calls["resume"] == tries
    control.change(wish.vm_id, suspended=False, power="off", stop_mode="hard")
    await until(lambda: not machine.running(wish.vm_id))
    await until(lambda: not control.reports[wish.vm_id].failing)
