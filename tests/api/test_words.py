"""What a wrong field is answered with: its whole path, what it takes, and no word of the decoder's."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from nubila.api import problem, words
from nubila.api.internal.routes import ROUTES as INTERNAL
from nubila.api.operator.routes import ROUTES as OPERATOR
from nubila.api.read import BodyReader
from nubila.api.user.routes import ROUTES as USER
from nubila.errors import Invalid, NubilaError
from nubila.intent.catalog import QuotaChange
from nubila.intent.network import NetworkCreate
from nubila.intent.node import JoinTokenCreate
from nubila.intent.vm_create import VmCreate
from nubila.model import ids
from nubila.model.catalog import QuotaClass
from nubila.represent import json as represented
from tests.fleet.hostile import JUNK, VALID

VM = {"name": "a", "flavor": "f", "image": "i"}
SUBNETS = {"name": "n", "subnets": [{"cidr": "10.0.0.0/24"}]}
JARGON = ("`", "Expected", "regex", "enum", "`str`", "Object ", "NoneType", "null,")
BODIES = sorted(
    {(r.permission, r.body) for r in (*USER, *OPERATOR) if r.body is not None and r.permission in VALID},
    key=lambda b: b[0],
)


def refusal(kind: Any, body: Any) -> NubilaError:
    with pytest.raises(NubilaError) as e:
        BodyReader(kind, strict=True).read(json.dumps(body).encode(), "application/json")
    return e.value


def answered(kind: Any, raw: bytes) -> NubilaError | None:
    try:
        BodyReader(kind, strict=True).read(raw, "application/json")
    except NubilaError as e:
        return e
    return None


@pytest.mark.parametrize(
    ("kind", "body", "field", "said"),
    [
        (VmCreate, {"flavor": "f", "image": "i"}, "name", "name is missing: it must be 1-63 characters"),
        (VmCreate, {**VM, "x": 1}, "x", "x is not a known field. Known are: boot_string, "),
        (VmCreate, {**VM, "labels": {"ok": "1", "A": "1"}}, "labels.A", "labels.A: the key must be 1-63 characters"),
        (VmCreate, {**VM, "labels": {"ok": "1", "k": 1}}, "labels.k", "labels.k must be text of at most 255 characters"),
        (VmCreate, {**VM, "disk_gib": 1.5}, "disk_gib", "from 1 to 1048576 (size in GiB), not a number with a fraction."),
        (VmCreate, {**VM, "disk_gib": 0}, "disk_gib", "disk_gib must be a whole number from 1 to 1048576 (size in GiB)."),
        (VmCreate, {**VM, "power": "up"}, "power", "power must be one of on, off."),
        (VmCreate, {**VM, "keys": ["a", 1]}, "keys[1]", "keys[1] must be text of 1 to 80 characters (an id or a name)"),
        (QuotaChange, {"quota": {"foo": 1}}, "quota.foo", f"Known are: {', '.join(QuotaClass)}."),
        (QuotaChange, {"quota": {"vms": 1, "cores": -1}}, "quota.cores", "quota.cores must be a whole number from 0 to"),
        (NetworkCreate, {**SUBNETS, "subnets": [{"x": 1}]}, "subnets[0].x", "Known are: cidr, dns, gateway."),
        (NetworkCreate, {**SUBNETS, "subnets": [{}]}, "subnets[0].cidr", "subnets[0].cidr is missing"),
        (NetworkCreate, {**SUBNETS, "nat": "yes"}, "nat", "nat must be true or false, not text."),
        (JoinTokenCreate, {"roles": []}, "roles", "roles must be a list of at least 1, each one of hypervisor"),
        (JoinTokenCreate, [], "body", "The body must be an object with ttl_s, roles, "),
    ],
)  # fmt: skip
def test_a_wrong_field_is_told_by_its_path_and_what_it_takes(kind: Any, body: Any, field: str, said: str) -> None:
    told = refusal(kind, body)
    assert isinstance(told, Invalid)
    assert told.fields["field"] == field
    assert said in told.detail


@pytest.mark.slow
@pytest.mark.parametrize(("permission", "kind"), BODIES, ids=[b[0] for b in BODIES])
def test_no_body_of_any_route_is_answered_in_the_decoders_words(permission: str, kind: Any) -> None:
    right = VALID[permission]
    for name in right:
        for junk in [*JUNK, {"a": {"b": 1}}, [{"a": 1}]]:
            raw = json.dumps({**right, name: junk}).encode()
            told = answered(kind, raw)
            if told is not None:
                assert not [word for word in JARGON if word in told.detail], told.detail
                assert "another form" not in told.detail, f"{name} has a pattern and no description"
                if isinstance(told, Invalid) and told.fields["field"] != "body":
                    assert told.fields["field"].startswith(name)


@pytest.mark.parametrize(("permission", "kind"), BODIES, ids=[b[0] for b in BODIES])
def test_no_object_can_be_named_like_an_id(permission: str, kind: Any) -> None:
    """By a word that is an id of something, that and nothing else is meant."""
    right = VALID[permission]
    reader = BodyReader(kind, strict=True)
    for ident in (ids.text(kind, ids.uuid7(1_700_000_000_000, 5)) for kind in ids.PREFIX):
        assert ids.shaped(ident)
        if "name" in right:
            with pytest.raises(Invalid, match="not in the form of an id"):
                reader.read(json.dumps({**right, "name": ident}).encode(), "application/json")
    assert not ids.shaped("web")
    if "name" in right:
        reader.read(json.dumps({**right, "name": "vm-01k9"}).encode(), "application/json")


def test_every_name_is_a_checked_one() -> None:
    """No route takes a new object's name in a field of a looser type."""
    for route in (*USER, *OPERATOR, *INTERNAL):
        if route.body is not None:
            for f in msgspec.inspect.type_info(route.body).fields:  # type: ignore[attr-defined]
                if f.name == "name":
                    assert "1-63 characters" in words.takes(f.type), route.path


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"name": "\\ud800"}', "half of a surrogate pair"),
        (b'{"name": "a', "it ends after 11 bytes, in the middle"),
        (b'{"name": "a" x', "expected ',' or '}'"),
        (b'{"name": "\xff"}', "is not UTF-8"),
    ],
)
def test_what_is_no_json_is_told_apart(raw: bytes, said: str) -> None:
    with pytest.raises(NubilaError) as e:
        BodyReader(VmCreate, strict=True).read(raw, "application/json")
    assert said in e.value.detail


def test_a_secret_is_never_repeated() -> None:
    body = {**VM, "user_data": 5, "boot_string": "s3cret" * 1000}
    assert "s3cret" not in refusal(VmCreate, {**body, "user_data": "x"}).detail
    assert "s3cret" not in refusal(VmCreate, {**VM, "labels": {"k": "s3cret" * 100}}).detail


def test_fields_that_nothing_has_are_refused() -> None:
    listed = represented.encode({"items": [{"id": "1", "name": "a"}, {"id": "2", "node": "n"}], "next": None})
    assert json.loads(represented.pick(listed, frozenset({"name", "node", "last_state"})))["items"] == [
        {"name": "a"},
        {"node": "n"},
    ]
    with pytest.raises(Invalid, match=r"no field 'bogus'. Known are: id, name, node\."):
        represented.pick(listed, frozenset({"name", "bogus"}))
    with pytest.raises(Invalid, match="bogus"):
        represented.pick(represented.encode({"id": "1"}), frozenset({"bogus"}))
    assert represented.pick(represented.encode({"items": []}), frozenset({"x"})) == b'{"items":[]}'


def test_a_query_is_told_likewise() -> None:
    class Query(msgspec.Struct, frozen=True):
        size: int = 1

    with pytest.raises(msgspec.ValidationError) as e:
        msgspec.convert({"size": "x"}, Query, strict=False)
    assert problem.invalid(e.value, where="query", kind=Query).detail == "size must be a whole number."
