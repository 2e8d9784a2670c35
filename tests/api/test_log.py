"""Log lines: one JSON object each, with the request id, without secrets."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

from nubila.telemetry import log


def _lines(logged: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in logged.getvalue().splitlines()]


def test_secrets_are_hidden_by_their_names(logged: io.BytesIO) -> None:
    names = ("token", "join_token", "client_secret", "Password", "authorization", "user_data", "private_key_pem")
    log.get().info("x.done", **dict.fromkeys(names, "canary"), token_id="tok-1", inner={"secret": "canary", "a": 1})
    (line,) = _lines(logged)
    assert "canary" not in logged.getvalue().decode()
    assert (line["token_id"], line["inner"]["a"], line["event"], line["level"]) == ("tok-1", 1, "x.done", "info")


def test_lines_carry_the_request(logged: io.BytesIO) -> None:
    held = log.request_id.set("req-1")
    log.get(plane="user").warning("x.refused")
    log.request_id.reset(held)
    log.get().warning("y.refused")
    first, second = _lines(logged)
    assert (first["request_id"], first["plane"]) == ("req-1", "user")
    assert "request_id" not in second


def test_libraries_write_the_same_lines(logged: io.BytesIO) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("some.library").exception("it %s", "broke")
    (line,) = _lines(logged)
    assert (line["event"], line["library"], line["level"]) == ("it broke", "some.library", "error")
    assert "ValueError: why" in line["exception"]


def test_what_cannot_be_shown_is_still_one_line(logged: io.BytesIO) -> None:
    log.get().info("x.done", text="\ud800", thing=object(), line="a\nb")
    (line,) = _lines(logged)
    assert "x.done" in line["event"]


def test_levels() -> None:
    stream = io.BytesIO()
    log.setup("warning", stream)
    log.get().info("x.done")
    log.request({"status": 200})
    assert stream.getvalue() == b""
