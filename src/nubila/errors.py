"""Every failure that may leave a process, as a class: slug, HTTP status, outside text, and what to do.

A class's docstring is the outside message's default. `Transient` may succeed if repeated unchanged; `Terminal` may not.
`api/problem.py` is the only place that maps these to HTTP.
"""

from __future__ import annotations

from typing import Any, ClassVar


class NubilaError(Exception):
    """Something went wrong inside Nubila."""

    slug: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    fix: ClassVar[str] = "Repeat the request; if it fails again, give the request id to your operator."

    def __init__(self, detail: str | None = None, *, fix: str | None = None, inside: str | None = None, **fields: Any):
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.how = fix or self.fix
        self.inside = inside
        self.fields = fields
        super().__init__(self.detail if inside is None else f"{self.detail} [{inside}]")


class Transient(NubilaError):
    """The request could not be carried out now."""

    slug, status = "unavailable", 503


class Terminal(NubilaError):
    """The request cannot be carried out."""

    slug, status = "refused", 400


class BadRequest(Terminal):
    """The request is not well formed."""

    slug, status = "bad-request", 400
    fix = "Correct the request as described and send it again."


class Unauthenticated(Terminal):
    """No valid credential of this API came with the request."""

    slug, status = "unauthenticated", 401
    fix = "Send 'Authorization: Bearer TOKEN' with a token issued for this API, not expired and not revoked."


class Forbidden(Terminal):
    """Your role does not allow this action."""

    slug, status = "forbidden", 403
    fix = "Ask an owner of the project for the right, or use another credential."


class NotFound(Terminal):
    """There is no such object, or it is not yours."""

    slug, status = "not-found", 404
    fix = "List the objects to see which exist."


class MethodNotAllowed(Terminal):
    """This address does not support that method."""

    slug, status = "method-not-allowed", 405
    fix = "See the Allow header for the methods that this address supports."


class NotAcceptable(Terminal):
    """None of the accepted representations is offered."""

    slug, status = "not-acceptable", 406
    fix = "Accept application/json."


class Conflict(Terminal):
    """The request does not fit the present state of the object."""

    slug, status = "conflict", 409
    fix = "Read the object again, and repeat the request if it still makes sense."


class Stale(Conflict):
    """What the decision rested on has changed since."""

    slug = "stale"
    fix = "Look at 'changed' (was / is now), then plan or send the request again."


class NameTaken(Conflict):
    """Another object has that name."""

    slug = "name-taken"
    fix = "Choose another name, or remove or rename the other object first."


class InUse(Conflict):
    """Other objects still use this one."""

    slug = "in-use"
    fix = "Remove or detach the objects listed in 'users' first."


class PreconditionFailed(Terminal):
    """The object changed since you read it (If-Match)."""

    slug, status = "precondition-failed", 412
    fix = "Read the object again and send its new ETag in If-Match."


class TooLarge(Terminal):
    """The request is larger than this API accepts."""

    slug, status = "too-large", 413
    fix = "Send a smaller request."


class UnsupportedMediaType(Terminal):
    """The request's content type is not understood."""

    slug, status = "unsupported-media-type", 415
    fix = "Send application/json."


class Invalid(Terminal):
    """A value in the request is not acceptable."""

    slug, status = "invalid", 422
    fix = "Correct the named value and send the request again."


class KeyReused(Terminal):
    """This Idempotency-Key was used before with another request."""

    slug, status = "idempotency-key-reused", 422
    fix = "Use a new Idempotency-Key for a new request."


class QuotaExceeded(Terminal):
    """The project's quota does not allow this."""

    slug, status = "quota-exceeded", 403
    fix = "Remove something of that class, ask for less, or ask your operator for a larger quota."


class NoCapacity(Terminal):
    """No node can hold this VM."""

    slug, status = "no-capacity", 507
    fix = "Ask for the change named in 'would_fit', or ask your operator for more capacity."


class NoAddress(NoCapacity):
    """No address is free in this subnet."""

    slug = "no-address"
    fix = "Remove ports or VMs from the network, unassign addresses of its ports, or use another, larger network."


class Unsupported(Terminal):
    """What was asked is not supported by the chosen driver."""

    slug, status = "unsupported", 422
    fix = "See the capabilities of the virt method, pool or network for what it can do."


class StoreFull(Transient):
    """The image store is full; nothing half is used."""

    slug, status = "image-store-full", 507
    fix = "Remove images that nobody needs, or ask your operator for more room; what came of an upload is kept."


class NotApproved(Conflict):
    """This node waits for an operator's approval; until then it is told nothing and given nothing."""

    slug = "not-approved"
    fix = "An operator sees it in 'nubila node list' and lets it in by 'nubila node approve NAME'."


class NoSession(Conflict):
    """This node has no session: it was declared lost meanwhile."""

    slug = "no-session"
    fix = "Open a session: the node then stands in maintenance until an operator returns it."


class WrongMachine(Conflict):
    """Another machine than this node's shows its certificate: a copy of its disk, or a stolen key."""

    slug = "wrong-machine"
    fix = (
        "Stop this agent; as a node of its own the machine joins after its identity was deleted. If the node really moved here: "
        "'nubila node change NAME --other-machine', then start the agent again."
    )


class WrongSession(Conflict):
    """Another agent session of this node is newer."""

    slug = "wrong-session"
    fix = "Stop this agent: another one runs with the same identity."


class Busy(Transient):
    """Nubila is at its limit of parallel requests."""

    slug = "busy"
    fix = "Repeat the request after the time in Retry-After."


class DatabaseAway(Transient):
    """The database cannot be reached; nothing was changed."""

    slug = "database-away"
    fix = "Repeat the request, with the same Idempotency-Key, after the time in Retry-After."


class DatabaseFull(Transient):
    """The database has no room left; nothing was changed."""

    slug, status = "database-full", 507
    fix = "Repeat the request, with the same Idempotency-Key, later; your operator has to make room where the database lies."


class OutcomeUnknown(Transient):
    """The database did not confirm the change; it may or may not have been made."""

    slug = "outcome-unknown"
    fix = "Repeat the request with the same Idempotency-Key: it is carried out once."
