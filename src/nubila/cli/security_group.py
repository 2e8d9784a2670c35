"""`nubila security-group`: who may reach ports, and whom they may reach."""

from __future__ import annotations

import re
from typing import Annotated

from cyclopts import Parameter

from nubila.cli import exits, flow, history, values
from nubila.cli.exits import Failure
from nubila.cli.options import Common, Listing, Write, named, noun, verb
from nubila.cli.session import Session
from nubila.client.calls import How, Json

app = noun("security-group", "Who may reach ports, and whom they may reach.")

Group = Annotated[str, named("security-group", "Name or id of the group.")]
HOW = "Write a rule like 'in tcp:80 from any', 'in udp:5000-5010 from 10.0.0.0/8', 'out any to group:db'."
_RULE = re.compile(
    r"(?P<direction>in|out)\s+(?P<protocol>any|tcp|udp|icmp)(:(?P<first>\d{1,5})(-(?P<last>\d{1,5}))?)?"
    r"\s+(from|to)\s+(?P<whom>any4|any6|any|group:\S+|\S+)"
)
_FAMILY = {"any4": 4, "any6": 6}


@verb(
    app,
    "create",
    "nubila security-group create web --rule 'in tcp:80 from any' --rule 'out any to any'",
    "nubila security-group create db --rule 'in tcp:5432 from group:web' --plan",
)
def create(
    name: str,
    /,
    *,
    rule: Annotated[list[str] | None, Parameter(negative="", help="'in tcp:80 from any'; repeatable.")] = None,
    description: str | None = None,
    label: Annotated[list[str] | None, Parameter(negative="", help="KEY=VALUE; repeatable.")] = None,
    options: Write = Write(),
) -> int:
    """Create a security group. What no rule lets in or out is dropped."""
    session = Session(options)
    rules = [parsed(r) for r in rule or ()]
    body = values.given(name=name, description=description, rules=rules, labels=values.labels(label))
    return flow.change(lambda how: session.user.create_security_group(body, how), options, session, "created")


@verb(app, "list", "nubila security-group list")
def list_(*, options: Listing = Listing()) -> int:
    """List security groups."""
    session = Session(options)
    return flow.listing(
        "security_group",
        lambda: session.either(options.as_).security_groups(options.find()),
        options,
        session.plane(options.as_),
    )


@verb(app, "show", "nubila security-group show default")
def show(group: Group, /, *, options: Common = Common()) -> int:
    """Show a security group with its rules."""
    return flow.one(Session(options).user.security_group(group), options, _described)


@verb(
    app,
    "change",
    "nubila security-group change web --add 'in tcp:443 from any'",
    "nubila security-group change web --add 'in tcp:22 from 10.0.0.0/8' --remove 'in tcp:22 from any' --plan",
)
def change(
    group: Group,
    /,
    *,
    add: Annotated[list[str] | None, Parameter(negative="", help="A rule to add; repeatable.")] = None,
    remove: Annotated[list[str] | None, Parameter(negative="", help="A rule to take away; repeatable.")] = None,
    name: str | None = None,
    description: str | None = None,
    options: Write = Write(),
) -> int:
    """Add and remove rules; they hold on running ports at once. Connections that no rule admits any more end."""
    session = Session(options)
    body, etag = values.given(name=name, description=description), None
    if add or remove:
        found, etag = session.user.tagged(f"/v1/security-groups/{flow.segment(group)}")
        own = {f"group:{group}": found["id"], f"group:{found['name']}": found["id"]}
        rules = [said(r) for r in found["spec"]["rules"]]
        for gone in (said(parsed(r), own) for r in remove or ()):
            if gone not in rules:
                raise Failure(f"The group has no rule '{gone}'.", fix="`nubila security-group show` lists them.")
            rules.remove(gone)
        body["rules"] = [parsed(r) for r in rules + [said(parsed(r)) for r in add or ()]]

    def call(how: How) -> Json:
        # All rules are sent, so nobody else's change may lie between reading and writing them.
        return session.user.change_security_group(
            group, body, How(plan=how.plan, key=how.key, if_match=how.if_match or etag)
        )

    return flow.change(call, options, session, "changed")


@verb(app, "delete", "nubila security-group delete web")
def delete(group: Group, /, *, options: Write = Write()) -> int:
    """Delete a security group that no port is in and no rule names."""
    session = Session(options)
    return flow.change(lambda how: session.user.delete_security_group(group, how), options, session, "deleted")


def parsed(rule: str) -> dict[str, object]:
    """A rule as the API takes it, from its words."""
    m = _RULE.fullmatch(rule.strip())
    if m is None:
        raise Failure(f"{rule!r} is not a rule.", fix=HOW, code=exits.USAGE)
    whom = m["whom"]
    return values.given(
        direction=m["direction"],
        protocol=m["protocol"],
        port_min=None if m["first"] is None else int(m["first"]),
        port_max=None if m["last"] is None else int(m["last"]),
        group=whom.removeprefix("group:") if whom.startswith("group:") else None,
        cidr=None if whom in ("any", "any4", "any6") or whom.startswith("group:") else whom,
        family=_FAMILY.get(whom),
    )


def said(rule: Json, ids: dict[str, str] | None = None) -> str:
    """A rule in words; `ids` are those of groups that may be named otherwise."""
    first, last = rule.get("port_min"), rule.get("port_max")
    ports = "" if first is None else f":{first}" + ("" if last in (None, first) else f"-{last}")
    group = rule.get("group")
    families = {4: "any4", 6: "any6"}
    whom = f"group:{group}" if group else rule.get("cidr") or families.get(rule.get("family") or 0, "any")
    if ids and whom in ids:
        whom = f"group:{ids[whom]}"
    way = "from" if rule["direction"] == "in" else "to"
    return f"{rule['direction']} {rule.get('protocol', 'any')}{ports} {way} {whom}"


def _described(found: Json) -> str:
    given = found.get("spec") or {}
    spec = {**given, "rules": [said(r) for r in given.get("rules") or ()]}
    return flow.describe({**found, "spec": spec})


history.of(app, "security-group", "security-groups", plane="user")
