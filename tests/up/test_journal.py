"""The journal and the owner file: durable, append-only, and readable after a crash in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from nubila.bootstrap import owner
from nubila.bootstrap.journal import Entry, Journal
from nubila.bootstrap.owner import Owner


def test_entries_come_back_in_order_and_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(Entry("user", "a"), Entry("package", "p"))
    journal.add(Entry("user", "a"), Entry("user", "b"))
    assert [e.what for e in Journal(tmp_path).entries()] == ["a", "p", "b"]
    assert [e.what for e in journal.of("user")] == ["a", "b"]
    assert journal.has("package", "p")
    assert not journal.has("user", "p")


def test_a_torn_line_is_no_entry_and_harms_no_other(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add(Entry("user", "a"))
    with journal.path.open("a") as f:
        f.write('{"kind": "user", "wha')
    journal.add(Entry("user", "b"))
    assert [e.what for e in journal.entries()] == ["a", "b"]


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such kind"):
        Journal(tmp_path).add(Entry("planet", "mars"))


def test_no_journal_is_an_empty_one(tmp_path: Path) -> None:
    assert Journal(tmp_path / "missing").entries() == []


def test_the_owner_is_read_as_written(tmp_path: Path) -> None:
    assert owner.read(tmp_path) is None
    written = Owner("/clone", "nubila", owner.now_utc(), "10.77.0.0/24", "fd00::/64")
    owner.write(tmp_path, written)
    assert owner.read(tmp_path) == written
