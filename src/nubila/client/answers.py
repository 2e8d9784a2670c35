"""What comes back from a listener: an answer, a problem, or no connection. Used with `transport`.

Invariant: none of these texts holds a credential or a query string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nubila.errors import Transient

START_IT = "Check that Nubila runs there (`make up` starts it on this machine) and that the address is right."


class Response:
    """One whole answer. Header names are in lower case."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"Response({self.status}, {len(self.body)} bytes)"


class ConnectionFailed(Transient):
    """No answer came from the server."""

    slug = "no-connection"
    fix = START_IT

    def __init__(self, base_url: str, why: str, *, may_have_arrived: bool = True, fix: str | None = None) -> None:
        """`may_have_arrived`: the server may have carried the request out; repeat it with the same Idempotency-Key."""
        super().__init__(f"{base_url}: {why}", fix=fix)
        self.base_url = base_url
        self.may_have_arrived = may_have_arrived


class TimedOut(ConnectionFailed):
    """The server did not answer in time."""

    slug = "no-answer"
    fix = "Try again later; if it stays silent, look at the log of the server."


class ProblemError(Exception):
    """The server refused: its RFC 9457 problem, with what the CLI and callers ask for most."""

    def __init__(self, problem: Mapping[str, Any], *, retry_after_s: float | None = None) -> None:
        self.problem = dict(problem)
        self.status = int(problem.get("status") or 0)
        self.slug = str(problem.get("slug") or "")
        self.detail = str(problem.get("detail") or problem.get("title") or f"HTTP status {self.status}")
        self.fix = str(problem.get("fix") or "")
        self.request_id = str(problem.get("request_id") or "")
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.status} {self.slug}: {self.detail}")

    @property
    def transient(self) -> bool:
        """The same request may succeed later, unchanged."""
        return self.status in (429, 503)


def expect(response: Response, *statuses: int) -> Response:
    """The same answer if it has one of the statuses (default: any 2xx), otherwise its problem, raised."""
    if response.status in statuses or (not statuses and 200 <= response.status < 300):
        return response
    raise ProblemError(_problem(response), retry_after_s=_seconds(response.headers.get("retry-after")))


def _problem(response: Response) -> dict[str, Any]:
    """The problem in the body; one of our own when something else than Nubila answered."""
    if "json" in response.headers.get("content-type", ""):
        try:
            found = json.loads(response.body)
        except ValueError:
            found = None
        if isinstance(found, dict):
            return found if "status" in found else {**found, "status": response.status}
    return {
        "status": response.status,
        "slug": "unexpected-answer",
        "detail": f"The server answered with status {response.status} and no problem document.",
        "fix": "Check that the address is one of Nubila's APIs.",
    }


def _seconds(value: str | None) -> float | None:
    try:
        return max(0.0, float(value)) if value is not None else None
    except ValueError:  # a date: nobody of ours sends one
        return None
