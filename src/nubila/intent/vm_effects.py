"""What a plan tells of a vm beyond its rows. Pure."""

from __future__ import annotations

from typing import Any, Protocol


class Given(Protocol):
    """Of a request for a vm, what is optional."""

    @property
    def keys(self) -> list[str]: ...
    @property
    def labels(self) -> dict[str, str]: ...
    @property
    def boot_string(self) -> str: ...
    @property
    def zone(self) -> str | None: ...
    @property
    def user_data(self) -> str | None: ...


def given(body: Given) -> dict[str, Any]:
    """What was asked for besides the size; of user data that there is some, never what."""
    size = None if body.user_data is None else f"{len(body.user_data)} characters"
    said = {"keys": body.keys, "labels": body.labels, "boot_string": body.boot_string, "user_data": size} | {
        "zone": body.zone
    }
    return {k: v for k, v in said.items() if v}
