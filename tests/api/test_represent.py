"""Representations: rows as resources, hidden fields, ETags, pages, negotiation."""

from __future__ import annotations

import json as stdjson
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubila.errors import BadRequest, NotAcceptable
from nubila.model import ids
from nubila.model.fields import NEVER, OPERATOR
from nubila.model.shapes import SHAPES
from nubila.represent import etag, json, negotiate, page, visibility

KEYS = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])) | st.integers(-(2**53), 2**53),
    min_size=1,
    max_size=3,
)


class Part(msgspec.Struct):
    shown: int = 1
    path: Annotated[str, OPERATOR] = "/dev/x"


class Whole(msgspec.Struct):
    part: Part | None = None
    parts: list[Part] = []
    by_name: dict[str, Part] = {}
    password: Annotated[str, NEVER] = "p"
    node: Annotated[str | None, OPERATOR] = None


class Tree(msgspec.Struct):
    children: list[Tree] = []


def test_hidden_fields_are_hidden_at_any_depth() -> None:
    whole = Whole(Part(), [Part()], {"a": Part()}, node="n1")
    assert visibility.visible(whole, "tenant") == {
        "part": {"shown": 1},
        "parts": [{"shown": 1}],
        "by_name": {"a": {"shown": 1}},
    }
    seen = visibility.visible({"items": [whole]}, "operator")["items"][0]
    assert (seen["node"], seen["part"]["path"]) == ("n1", "/dev/x")
    assert "password" not in seen
    raw = msgspec.json.encode(whole).decode()
    assert b"dev" not in bytes(visibility.strip(raw, Whole, "tenant"))
    assert b"password" not in bytes(visibility.strip(raw, Whole, "operator"))
    tree = Tree([Tree()])
    assert visibility.visible(tree, "tenant") is tree


def test_resource() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    row = {
        "id": ids.uuid7(1, 1),
        "name": "one",
        "project_id": ids.uuid7(1, 2),
        "labels": '{"a":"b"}',
        "generation": 3,
        "state": "running",
        "spec": '{ "part":{"shown":1,"path":"/dev/x"},"password":"p"}',
        "status": None,
        "created_at": now,
        "updated_at": now,
    }
    encoded = json.listing([json.resource("vm", row, viewer="tenant", spec_type=Whole, addresses=["192.0.2.1"])], None)
    assert stdjson.loads(encoded) == {
        "items": [
            {
                "id": ids.text("vm", ids.uuid7(1, 1)),
                "kind": "vm",
                "name": "one",
                "project_id": ids.text("project", ids.uuid7(1, 2)),
                "labels": {"a": "b"},
                "generation": 3,
                "state": "running",
                "spec": {"part": {"shown": 1}},
                "status": None,
                "created_at": "2026-01-02T00:00:00Z",
                "updated_at": "2026-01-02T00:00:00Z",
                "addresses": ["192.0.2.1"],
            }
        ],
        "next": None,
    }
    # Without a type, the stored text passes through as it is, byte by byte.
    assert b'{ "part":{"shown":1,"path":"/dev/x"},"password":"p"}' in json.encode(
        json.resource("vm", row, viewer="tenant")
    )


@given(st.lists(st.integers(0, 2**63), min_size=1, max_size=4))
def test_etags_of_numbers(numbers: list[int]) -> None:
    tag = etag.of(*numbers)
    assert etag.parse(f'"{tag}"', "If-Match") == (tag,)
    assert etag.matches(etag.parse(f' "x", "{tag}"', "If-Match"), tag)
    assert not etag.matches(etag.parse(f'W/"{tag}"', "If-Match"), tag)
    assert etag.unchanged(etag.parse(f'W/"{tag}"', "If-None-Match"), tag)


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_no_header_breaks_the_tag_parser(header: str) -> None:
    with suppress(BadRequest):
        assert etag.parse(header, "If-Match")


@pytest.mark.parametrize("header", ["", ",", '"a" "b"', '"a",', "a", '"a', 'w/"a"', '"a"b', "**", '*, "a"'])
def test_bad_tags(header: str) -> None:
    with pytest.raises(BadRequest):
        etag.parse(header, "If-Match")


@given(KEYS)
def test_cursors(key: list[str | int]) -> None:
    """What is too long for a cursor is no sort key of a list: it is refused, and never read as another."""
    cursor = page.encode(tuple(key))
    if len(cursor) <= page.CURSOR_MAX:
        assert page.decode(cursor) == tuple(key)
    else:
        with pytest.raises(BadRequest):
            page.decode(cursor)


def test_the_longest_sort_key_of_a_list_fits_into_a_cursor() -> None:
    key = ("e" * 254, "2026-01-31T12:00:00.123456Z", "join_token-" + "0" * 26)  # an e-mail address is the longest
    assert page.decode(page.encode(key)) == key


@given(st.text(max_size=60))
def test_no_text_breaks_the_cursor(text: str) -> None:
    with suppress(BadRequest):
        page.decode(text)


def test_cursor_of_another_list() -> None:
    with pytest.raises(BadRequest):
        page.decode(page.encode(("a", 1)), length=1)
    with pytest.raises(BadRequest):
        page.decode(page.encode((1 << 70,)))


JSON, TEXT = "application/json", "text/plain"


@pytest.mark.parametrize(
    ("accept", "offered", "chosen"),
    [
        ("*/*", (JSON,), JSON),
        ("text/html,application/xhtml+xml,*/*;q=0.8", (JSON,), JSON),
        ("text/plain;q=0.5, application/json;q=0.4", (JSON, TEXT), TEXT),
        ("application/*, text/plain;q=0", (TEXT, JSON), JSON),
        ("application/json;q=0, */*", (JSON, TEXT), TEXT),
        ("APPLICATION/JSON; charset=utf-8", (JSON,), JSON),
        ("nonsense, application/json", (JSON,), JSON),
        ("text/html", (JSON,), None),
        ("", (JSON,), None),
        ("*/*;q=0", (JSON,), None),
        ("*/*;q=nan", (JSON,), None),
    ],
)
def test_negotiation(accept: str, offered: tuple[str, ...], chosen: str | None) -> None:
    if chosen is None:
        with pytest.raises(NotAcceptable):
            negotiate.choose(accept, offered)
    else:
        assert negotiate.choose(accept, offered) == chosen


@pytest.mark.parametrize("kind", SHAPES)
def test_what_of_every_kind_is_hidden_can_be_told(kind: str) -> None:
    """The change log shows rows of all kinds: a type that cannot be looked into would make it unreadable."""
    for part in SHAPES[kind]:
        for viewer in ("tenant", "operator"):
            assert part is None or visibility.shape(part, viewer) is not None  # type: ignore[arg-type]
