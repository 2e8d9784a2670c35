"""What every answer keeps, beyond schemathesis' own checks. Loaded by its process, see generated.py."""

from __future__ import annotations

from typing import Any

import schemathesis

# What no schema can say of a text: that it is a place in this list, a moment that was, KEY=VALUE.
MEANINGS = frozenset({"after", "as_of", "until", "label"})


@schemathesis.check
def a_refusal_says_what_to_do(ctx: Any, response: Any, case: Any) -> None:
    if response.status_code < 400 or case.method == "HEAD":
        return
    body = response.json()
    assert response.headers["content-type"] == ["application/problem+json"], response.headers
    assert body["status"] == response.status_code, body
    assert body["fix"] and body["detail"] and body["slug"], body
    assert response.headers["x-request-id"] == [body["request_id"]], body
    assert "Traceback" not in response.text, body


@schemathesis.check
def the_schema_says_what_is_well_formed(ctx: Any, response: Any, case: Any) -> None:
    """What the schema allows is answered, or refused for what it means: never as something that is not well formed."""
    mode = case.meta.generation.mode if case.meta else None
    if mode is not None and mode.is_positive and not MEANINGS & set(case.query or ()):
        assert response.status_code not in (400, 405, 406, 413, 415), response.text
