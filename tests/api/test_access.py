"""Who is let in: tokens, certificates' names, the policy; and the box for secrets."""

from __future__ import annotations

import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nubila.access import policy, principal, tokens, vaultbox
from nubila.access.authenticate import Peer
from nubila.errors import Forbidden, NotApproved, Unauthenticated
from nubila.model import ids
from nubila.model.catalog import Plane, ProjectRole
from tests.api import toy
from tests.api.asgi import request

ALL = [(plane, name) for plane, rows in policy.POLICY.items() for name in rows]
NODE_TEXT = ids.text("node", toy.NODE_ID)


@given(st.sampled_from(tokens.Kind), st.uuids(), st.binary(min_size=32, max_size=32))
def test_a_token_reads_as_it_was_made(kind: tokens.Kind, token_id: Any, entropy: bytes) -> None:
    ca = "ab" * 32 if kind is tokens.Kind.JOIN else None
    text, stored = tokens.make(kind, token_id, entropy, ca_sha256=ca)
    token = tokens.parse(text)
    assert token is not None
    assert (token.kind, token.id, token.ca_sha256) == (kind, token_id, ca)
    assert tokens.fits(token.secret, stored)
    assert token.secret not in repr(token)
    assert len(stored) == 32
    assert token.secret.encode() not in stored


@given(st.text(max_size=120))
def test_no_text_breaks_the_parser(text: str) -> None:
    assert tokens.parse(text) is None


def test_tokens_are_not_almost_accepted(world: toy.Toy) -> None:
    good = world.token
    assert tokens.parse(good) is not None
    for bad in (
        good + "\n",
        good + "_" + "ab" * 32,
        good.upper(),
        good[:-1],
        good + "A",
        " " + good,
        good.replace("nbu", "nbj"),
    ):
        assert tokens.parse(bad) is None
    with pytest.raises(ValueError, match="random bytes"):
        tokens.make(tokens.Kind.USER, toy.ACCOUNT, b"short")
    with pytest.raises(ValueError, match="join token"):
        tokens.make(tokens.Kind.JOIN, toy.ACCOUNT, b"x" * 32)


def _other_secret(text: str) -> str:
    return text[:-43] + ("A" if text[-43] != "A" else "B") + text[-42:]


def _with_row(world: toy.Toy, text: str, **changes: Any) -> str:
    token = tokens.parse(text)
    assert token is not None
    rows = world.credentials.rows
    rows[token.id] = msgspec.structs.replace(rows[token.id], **changes)
    return text


async def test_every_bad_token_is_answered_alike(world: toy.Toy) -> None:
    issue = world.credentials.issue
    strange = issue()
    world.credentials.rows.clear()
    good = issue()
    bad: dict[str, str | None] = {
        "none": None,
        "unknown": strange,
        "another secret": _other_secret(good),
        "operator's": issue(Plane.OPERATOR),
        "operator's row under a user's name": issue(plane=Plane.USER, secret_sha256=b"x" * 32),
        "a user's text, an operator's row": _with_row(world, issue(), plane=Plane.OPERATOR),
        "an operator's text, a user's row": _with_row(world, issue(Plane.OPERATOR), plane=Plane.USER),
        "expired": issue(expires_at=toy.NOW),
        "long expired": issue(expires_at=toy.NOW - timedelta(days=9)),
        "revoked": issue(live=False),
        "nonsense": "nonsense",
        "empty": "",
    }
    answers = {}
    for name, token in bad.items():
        got = await request(world.user, "GET", "/v1/me", token=token)
        assert (got.status, got.headers["www-authenticate"]) == (401, 'Bearer realm="nubila"'), name
        answers[name] = {k: v for k, v in got.json.items() if k != "request_id"}
    assert len({msgspec.json.encode(a) for a in answers.values()}) == 1
    assert (await request(world.user, "GET", "/v1/me", token=good)).status == 200
    assert (await request(world.user, "GET", "/v1/me", headers={"authorization": f"bearer  {good}"})).status == 200
    assert (await request(world.user, "GET", "/v1/me", headers={"authorization": f"Basic {good}"})).status == 401
    assert (await request(world.operator, "GET", "/v1/me", token=good)).status == 401
    assert (await request(world.internal, "GET", "/internal/v1/wanted", token=good)).status == 401
    assert (await request(world.user, "GET", "/v1/me", peer=world.peer)).status == 401


@pytest.mark.parametrize(
    "peer",
    [
        None,
        Peer((), 4e9),
        Peer((f"spiffe://{toy.REGION}/node/{NODE_TEXT}",), toy.NOW.timestamp()),  # over by now
        Peer((f"spiffe://other.region/node/{NODE_TEXT}",), 4e9),
        Peer((f"spiffe://{toy.REGION}/user/{NODE_TEXT}",), 4e9),
        Peer((f"spiffe://{toy.REGION}/node/vm-{NODE_TEXT[5:]}",), 4e9),
        Peer((f"spiffe://{toy.REGION}/node/{ids.text('node', ids.uuid7(9, 9))}",), 4e9),  # retired
        Peer((f"spiffe://{toy.REGION}/node/{NODE_TEXT}/x",), 4e9),
        Peer((f"spiffe://{toy.REGION}/node/{NODE_TEXT}", f"spiffe://{toy.REGION}/node/{NODE_TEXT}"), 4e9),
    ],
)
async def test_bad_certificates(world: toy.Toy, peer: Peer | None) -> None:
    got = await request(world.internal, "POST", "/internal/v1/reports", data={"session": 1}, peer=peer)
    assert got.status == 401
    assert (await request(world.internal, "GET", "/internal/v1/ca", peer=peer)).status == 200


async def test_roles(world: toy.Toy) -> None:
    reader = world.credentials.issue(role=ProjectRole.READER)
    assert (await request(world.user, "GET", "/v1/things", token=reader)).status == 200
    got = await request(world.user, "POST", "/v1/things", data={"name": "one"}, token=reader)
    assert (got.status, got.json["needed"]) == (403, ["member", "owner"])
    # Nothing of the request is looked at before it is allowed.
    assert (await request(world.user, "POST", "/v1/things", body=b"{", token=reader)).status == 403
    assert not world.world.things


@given(st.sampled_from(ALL), st.sampled_from(["owner", "member", "reader", "operator", "node", "nobody", "", "OWNER"]))
def test_policy_is_closed(row: tuple[Plane, str], role: str) -> None:
    plane, permission = row
    who = principal.Principal(plane=plane, role=role, actor="x")
    allowed = policy.POLICY[plane][permission]
    if allowed.open or role in allowed.roles:
        policy.allow(permission, who)
    else:
        with pytest.raises(Forbidden):
            policy.allow(permission, who)
    with pytest.raises(Forbidden):
        policy.allow("vm.fly", who)


def test_roles_are_a_ladder_and_planes_share_no_role() -> None:
    roles = [set[str](), set[str](), set[str]()]
    for n, plane in enumerate((Plane.USER, Plane.OPERATOR, Plane.INTERNAL)):
        for rule in policy.POLICY[plane].values():
            roles[n] |= rule.roles - {"nobody"}
            if plane is Plane.USER and not rule.open:
                assert rule.roles in (policy.OWNERS, policy.WRITERS, policy.READERS)
    assert policy.OWNERS < policy.WRITERS < policy.READERS
    assert not roles[0] & roles[1]
    assert not roles[1] & roles[2]
    assert not roles[0] & roles[2]


def test_vault(tmp_path: Path) -> None:
    file = tmp_path / "vault.key"
    box = vaultbox.open_or_create(file, b"k" * 32)
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert (
        vaultbox.open_or_create(file, b"x" * 32).unseal("row-1", *box.seal("row-1", b"secret", b"n" * 12)) == b"secret"
    )
    nonce, sealed = box.seal("row-1", b"secret", b"n" * 12)
    assert b"secret" not in sealed
    other = vaultbox.VaultBox(b"x" * 32)
    for opener, row, its_nonce, its_box in (
        (box, "row-2", nonce, sealed),
        (box, "row-1", b"m" * 12, sealed),
        (box, "row-1", nonce, sealed[:-1]),
        (box, "row-1", nonce, b""),
        (box, "row-1", b"", sealed),
        (other, "row-1", nonce, sealed),
    ):
        with pytest.raises(vaultbox.Unopenable):
            opener.unseal(row, its_nonce, its_box)
    file.chmod(0o600)
    file.write_bytes(b"short")
    with pytest.raises(ValueError, match="32 bytes"):
        vaultbox.open_or_create(file, b"x" * 32)


@pytest.mark.parametrize("permission", sorted(set(policy.INTERNAL) - {"node.renew", "session.open"}))
def test_a_machine_that_is_not_approved_may_say_what_it_is_and_nothing_else(permission: str) -> None:
    waiting = principal.node(toy.NODE_ID, role=principal.WAITING)
    for known in ("node.renew", "session.open"):
        policy.allow(known, waiting)
    if policy.INTERNAL[permission].open:
        return
    policy.allow(permission, principal.node(toy.NODE_ID))
    with pytest.raises(NotApproved):
        policy.allow(permission, waiting)


@pytest.mark.parametrize("permission", ["session.open", "wanted.read", "report.write", "image.read", "question.answer"])
def test_a_lapsed_certificate_is_good_for_its_renewal_alone(permission: str) -> None:
    """A machine that was off for longer than its certificate lives finds back by itself, and does nothing else before."""
    lapsed, current = principal.node(toy.NODE_ID, role=principal.LAPSED), principal.node(toy.NODE_ID)
    policy.allow("node.renew", lapsed)
    policy.allow(permission, current)
    with pytest.raises(Unauthenticated, match="past its time"):
        policy.allow(permission, lapsed)
