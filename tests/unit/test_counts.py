"""What `make test` says of itself: what was not tried is missed, and nothing counts that did not pass."""

from __future__ import annotations

import json

from tests import counts


def line(**more: object) -> str:
    whole = {
        "counts": dict.fromkeys(counts.COUNTED, 1),
        "outcomes": {f"{k} {d}": {"passed": 2} for k, d in counts.DRIVERS} | {n: {"passed": 1} for n in counts.NAMED},
        "skips": {},
    }
    return json.dumps({**whole, **more})


def test_a_whole_run_misses_nothing_and_tells_all() -> None:
    out, missing = counts.told([line(), line(skips={"a::test_x[fake]: capability suspend": 1})])
    assert missing == []
    text = "\n".join(out)
    assert f"       2 {counts.API_KILLS}" in text
    assert "A15  2 passed" in text
    assert "hypervisor libvirt     4 passed" in text
    assert "capability suspend" in text


def test_what_was_not_tried_or_did_not_pass_is_missed() -> None:
    few = line(counts=dict.fromkeys(counts.COUNTED[1:], 1), outcomes={"A15": {"skipped": 3}})
    _, missing = counts.told([few])
    assert {counts.COUNTED[0], "A15", "network bridge"} <= set(missing)
    assert counts.COUNTED[1] not in missing


def test_what_another_target_tries_is_named_and_not_missed() -> None:
    out, missing = counts.told([json.dumps({**(whole := json.loads(line())), "outcomes": {n: o for n, o in whole["outcomes"].items() if n not in counts.ELSEWHERE}})])  # fmt: skip
    assert missing == []
    assert any(n in row and target in row for row in out for n, target in counts.ELSEWHERE.items())


def test_tests_are_known_by_their_names() -> None:
    assert counts.names("tests/fleet/test_x.py::test_a1_a_thing") == ["A1"]
    assert counts.names("tests/fleet/test_x.py::test_F14_a_thing[raw]") == ["F14"]
    assert counts.names("tests/fleet/test_x.py::test_a_thing") == []
    assert counts.names("tests/drivers/test_driver_hypervisor.py::test_x[libvirt-destroy]") == ["hypervisor libvirt"]
    assert counts.names("tests/drivers/test_driver_storage.py::test_x[qcow2-fake]") == ["storage fake"]
