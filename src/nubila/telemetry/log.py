"""Logs: one JSON object per line on stderr, with the request id and without secrets. `setup` is called in main."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO

import msgspec
import structlog

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

# A key with one of these in its name never shows its value.
SECRET_WORDS = ("token", "secret", "password", "authorization", "private_key", "user_data")
HIDDEN = "(hidden)"
# Names that hold such a word and are not secret.
HARMLESS = frozenset({"token_id", "join_token_id", "secret_id", "user_data_sha256"})

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

Event = MutableMapping[str, Any]


_stream: BinaryIO = sys.stderr.buffer
_requests_shown = True


def setup(level: str = "info", stream: BinaryIO | None = None) -> None:
    """Sends structlog's and the standard library's records to `stream` (stderr) as JSON lines."""
    global _stream, _requests_shown
    _stream, _requests_shown = stream or sys.stderr.buffer, _LEVELS.get(level, 20) <= 20
    structlog.configure(
        processors=[
            _request,
            redact,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS.get(level, 20)),
        logger_factory=structlog.BytesLoggerFactory(_stream),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(logging.WARNING)


def get(**context: Any) -> Any:
    """A logger: `get(part='agent').info('vm.started', vm_id=...)`. Events are named in the past tense."""
    return structlog.get_logger(**context)


def request(fields: dict[str, Any]) -> None:
    """The line of one request, at 'info'. Its keys are the framework's own, so it skips what other lines go through."""
    if _requests_shown:
        line = {"event": "request", **fields, "level": "info", "timestamp": datetime.now(UTC)}
        _stream.write(msgspec.json.encode(line) + b"\n")
        _stream.flush()


def redact(logger: Any, method: str, event: Event) -> Event:
    """Hides the values of keys that name a secret, also one level down."""
    for key, value in event.items():
        if _secret(key):
            event[key] = HIDDEN
        elif isinstance(value, dict):
            event[key] = {k: HIDDEN if _secret(str(k)) else v for k, v in value.items()}
    return event


@lru_cache(maxsize=1024)
def _secret(key: str) -> bool:
    return key not in HARMLESS and any(word in key.lower() for word in SECRET_WORDS)


def _request(logger: Any, method: str, event: Event) -> Event:
    if (current := request_id.get()) is not None:
        event.setdefault("request_id", current)
    return event


def _line(logger: Any, method: str, event: Event) -> bytes:
    try:
        return msgspec.json.encode(event, enc_hook=repr)
    except (UnicodeEncodeError, TypeError, ValueError, RecursionError):
        return msgspec.json.encode({"level": method, "event": ascii(event)[:4000]})


class _Bridge(logging.Handler):
    """Records of libraries, as our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            structlog.get_logger().log(
                record.levelno, record.getMessage(), library=record.name, exc_info=record.exc_info
            )
        except Exception:
            self.handleError(record)
