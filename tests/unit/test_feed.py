"""The feed's ring: nothing between two places is ever left out silently, whatever its bounds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nubila.store.feed import Ring, Told, told


def rows(first: int, count: int, size: int = 10) -> list[Told]:
    return [
        told({"fabric_epoch": 1, "xid": n // 3, "seq": n, "content": '{"node_id": "n1"}'.ljust(size)})
        for n in range(first, first + count)
    ]


def test_what_fell_out_is_said_and_not_skipped() -> None:
    ring = Ring((1, 0, 0), rows_max=5)
    ring.add(rows(1, 3))
    assert [t.place[2] for t in ring.after((1, 0, 0), 10) or ()] == [1, 2, 3]
    assert [t.place[2] for t in ring.after((1, 0, 2), 10) or ()] == [3]
    assert ring.after((1, 9, 9), 10) == []  # up to the present
    ring.add(rows(4, 4))
    assert ring.after((1, 0, 0), 10) is None
    assert ring.after((1, 0, 1), 10) is None
    assert [t.place[2] for t in ring.after((1, 0, 2), 10) or ()] == [3, 4, 5, 6, 7]
    assert rows(1, 1)[0].node_id == "n1"


def test_its_size_in_bytes_is_bounded_too() -> None:
    ring = Ring((1, 0, 0), bytes_max=1000)
    ring.add(rows(1, 50, 100))
    assert len(ring.after(ring.low, 100) or ()) == 10


@given(st.lists(st.integers(1, 6), max_size=20), st.integers(1, 12), st.integers(1, 5))
def test_a_reader_gets_each_row_once_or_is_told(batches: list[int], bound: int, limit: int) -> None:
    ring, place, got, written = Ring((1, 0, 0), rows_max=bound), (1, 0, 0), [], 0
    for count in batches:
        ring.add(rows(written + 1, count))
        written += count
        found = ring.after(place, limit)
        if found is None:
            assert written - len(got) > bound or place < ring.low
            return
        got += [t.place[2] for t in found]
        place = found[-1].place if found else place
    assert got == list(range(1, len(got) + 1))
