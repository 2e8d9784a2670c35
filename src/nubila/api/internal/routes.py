"""The internal plane: nodes only, by certificate."""

from __future__ import annotations

from nubila import protocol
from nubila.api.internal.enrol import ca, enrol, open_session, renew
from nubila.api.internal.image_send import SendQuery, send, sending
from nubila.api.internal.report import report
from nubila.api.internal.wanted import WantedQuery, answer_question, image_content, wanted
from nubila.api.noun import event
from nubila.api.route import BYTES, Route
from nubila.model import image

V = "/internal/v1"

ROUTES: tuple[Route, ...] = (
    Route("GET", f"{V}/ca", "ca.read", ca),
    Route("POST", f"{V}/enrol", "node.enrol", enrol, body=protocol.Enrol, answer=protocol.Enrolled, plans=False),
    Route("POST", f"{V}/renew", "node.renew", renew, body=protocol.Renew, answer=protocol.Enrolled, plans=False),
    Route(
        "POST", f"{V}/sessions", "session.open", open_session, body=protocol.Hello, answer=protocol.Welcome, plans=False
    ),
    Route("GET", f"{V}/wanted", "wanted.read", wanted, query=WantedQuery, answer=protocol.Wanted, held=True),
    Route(
        "POST",
        f"{V}/reports",
        "report.write",
        report,
        body=protocol.Reports,
        answer=protocol.Reported,
        plans=False,
        max_bytes=16 << 20,
    ),
    Route(
        "POST",
        f"{V}/answers/{{question:question}}",
        "question.answer",
        answer_question,
        body=protocol.Answer,
        plans=False,
        status=204,
    ),
    Route("GET", f"{V}/events", "event.read", event.events, query=event.EventQuery, media=(event.MEDIA,), held=True),
    Route("GET", f"{V}/images/{{image}}/content", "image.read", image_content, media=(BYTES,)),
    Route("GET", f"{V}/images/{{image}}/upload", "image.send", sending, answer=protocol.Received),
    Route(
        "PATCH",
        f"{V}/images/{{image}}/content",
        "image.send",
        send,
        query=SendQuery,
        upload=True,
        max_bytes=image.MAX_BYTES,
        plans=False,
    ),
)
