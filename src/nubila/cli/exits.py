"""Exit codes, and which answer leads to which. Scripts rely on these numbers: they never change."""

from __future__ import annotations

from nubila.client.answers import ConnectionFailed, ProblemError

OK = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
CONFLICT = 4
DENIED = 5
UNAVAILABLE = 6
TIMEOUT = 7
INTERRUPTED = 130

# code -> words for --help
MEANING: dict[int, str] = {
    OK: "done",
    FAILED: "refused or failed",
    USAGE: "wrong usage",
    NOT_FOUND: "no such object",
    CONFLICT: "conflict, or changed meanwhile",
    DENIED: "not logged in, or not allowed",
    UNAVAILABLE: "Nubila cannot be reached or is busy",
    TIMEOUT: "still not done at --timeout",
    INTERRUPTED: "interrupted by Ctrl-C",
}

# A slug decides before the status does.
BY_SLUG: dict[str, int] = {
    "quota-exceeded": FAILED,
    "idempotency-key-reused": FAILED,
}
BY_STATUS: dict[int, int] = {
    401: DENIED,
    403: DENIED,
    404: NOT_FOUND,
    409: CONFLICT,
    412: CONFLICT,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
}


class Failure(Exception):
    """The command ends here: an error of the CLI's own, with what to do and its exit code."""

    def __init__(self, detail: str, *, fix: str = "", code: int = FAILED) -> None:
        super().__init__(detail)
        self.detail, self.fix, self.code = detail, fix, code


def code_of(error: ProblemError | ConnectionFailed) -> int:
    if isinstance(error, ConnectionFailed):
        return UNAVAILABLE
    return BY_SLUG.get(error.slug, BY_STATUS.get(error.status, FAILED))
