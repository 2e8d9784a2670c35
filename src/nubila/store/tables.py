"""Every table, as SQLAlchemy Core, in one literal order.

The order of `TABLES` is the order in which every transaction locks and writes, so that no two can deadlock. `ddl.py`
generates triggers and the commit function from the marks here; rows arrive through that function only.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from nubila.model import attachment, catalog, drift, image, network, node, operation, snapshot, vm, volume

metadata = sa.MetaData(
    naming_convention={
        "pk": "%(table_name)s_pk",
        "fk": "%(table_name)s_%(column_0_name)s_fk",
        "ck": "%(table_name)s_%(constraint_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

UUID = pg.UUID(as_uuid=True)
NOW = sa.text("now()")


class Table(msgspec.Struct, frozen=True):
    """A table with what the generator needs to know of it."""

    table: sa.Table
    logged: bool = False  # rows go to the change log
    unlogged_columns: tuple[str, ...] = ()  # a change of these alone is not logged, nor are they in the logged row
    transitions: dict[Any, frozenset[Any]] | None = None
    references: tuple[tuple[str, str], ...] = ()  # (table, column) of users that forbid removal

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.table.primary_key.columns)


def _states(kind: type[StrEnum], *, tombstone: str | None = "removed") -> list[sa.Constraint]:
    values = ", ".join(f"'{s.value}'" for s in kind)
    checks: list[sa.Constraint] = [sa.CheckConstraint(f"state in ({values})", name="state_known")]
    if tombstone is not None:
        checks.append(
            sa.CheckConstraint(f"(state = '{tombstone}') = (removed_at is not null)", name="removed_has_time")
        )
    return checks


def _resource(name: str, *extra: Any, project: bool = True) -> sa.Table:
    """A table in the common shape: wish, report, state; see architecture rule 4."""
    return sa.Table(
        name,
        metadata,
        sa.Column("id", UUID, primary_key=True),
        *([sa.Column("project_id", UUID, nullable=False)] if project else []),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("labels", pg.JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("spec", pg.JSONB, nullable=False),
        sa.Column("spec_schema", sa.SmallInteger, nullable=False, server_default="1"),
        sa.Column("generation", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("status", pg.JSONB),
        sa.Column("status_schema", sa.SmallInteger, nullable=False, server_default="1"),
        sa.Column("observed_generation", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
        sa.Column("removed_at", sa.TIMESTAMP(timezone=True)),
        sa.CheckConstraint("observed_generation <= generation", name="observed_not_ahead"),
        *extra,
    )


def _unique_name(table: str, *scope: str) -> sa.Index:
    return sa.Index(f"{table}_name_key", *scope, "name", unique=True, postgresql_where=sa.text("removed_at is null"))


class Lasting(StrEnum):
    """State of what has no life on a host."""

    ACTIVE = "active"
    REMOVED = "removed"


LASTING = {Lasting.ACTIVE: frozenset({Lasting.REMOVED}), Lasting.REMOVED: frozenset[Lasting]()}

project = _resource("project", *_states(Lasting), _unique_name("project"), project=False)
user = _resource("user", *_states(Lasting), _unique_name("user"), project=False)
operator = _resource("operator", *_states(Lasting), _unique_name("operator"), project=False)
member = sa.Table(
    "member",
    metadata,
    sa.Column("project_id", UUID, primary_key=True),
    sa.Column("user_id", UUID, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.CheckConstraint("role in ('owner', 'member', 'reader')", name="role_known"),
)
token = _resource(
    "token",
    sa.Column("account_id", UUID, nullable=False),
    sa.Column("project_id", UUID),
    sa.Column("plane", sa.Text, nullable=False),
    sa.CheckConstraint("plane in ('user', 'operator')", name="plane_known"),
    sa.CheckConstraint("(plane = 'user') = (project_id is not null)", name="user_has_project"),
    *_states(Lasting),
    sa.Index("token_account_idx", "account_id"),
    project=False,
)
keypair = _resource(
    "keypair", sa.Column("user_id", UUID, nullable=False), *_states(Lasting), _unique_name("keypair", "project_id")
)
quota = sa.Table(
    "quota",
    metadata,
    sa.Column("project_id", UUID, primary_key=True),
    sa.Column("class", sa.Text, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, server_default="0"),
    sa.CheckConstraint("amount >= 0", name="amount_not_negative"),
    sa.CheckConstraint("used >= 0", name="used_not_negative"),
)
node_ = _resource("node", *_states(node.State, tombstone="retired"), _unique_name("node"), project=False)
join_token = sa.Table(
    "join_token",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("spec", pg.JSONB, nullable=False),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("used_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("node_id", UUID),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.CheckConstraint("(used_at is null) = (node_id is null)", name="used_by_a_node"),
)
virt_method = sa.Table(
    "virt_method",
    metadata,
    sa.Column("node_id", UUID, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("capabilities", pg.JSONB, nullable=False),
)
flavor = _resource("flavor", *_states(Lasting), _unique_name("flavor"), project=False)
image_ = _resource(
    "image",
    sa.Column("project_id", UUID),
    sa.Column("sha256", sa.Text),
    sa.Column("fetch_secret", UUID),  # the whole address that its content comes from
    sa.CheckConstraint("state <> 'ready' or sha256 is not null", name="ready_has_content"),
    *_states(image.State),
    sa.Index(
        "image_name_key",
        sa.text("coalesce(project_id, '00000000-0000-0000-0000-000000000000')"),
        "name",
        unique=True,
        postgresql_where=sa.text("removed_at is null"),
    ),
    project=False,
)
share = sa.Table(
    "share",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("object_id", UUID, primary_key=True),
    sa.Column("project_id", UUID, primary_key=True),  # with whom
    sa.Column("right", sa.Text, nullable=False),
    sa.CheckConstraint("kind = 'image'", name="kind_known"),
    sa.CheckConstraint("\"right\" = 'use'", name="right_known"),
    sa.Index("share_project_idx", "project_id", "kind"),
)
network_ = _resource("network", *_states(Lasting), _unique_name("network", "project_id"))
subnet = _resource(
    "subnet",
    sa.Column("network_id", UUID, nullable=False),
    sa.Column("cidr", pg.CIDR, nullable=False),
    sa.Column("gateway", pg.INET, nullable=False),
    sa.CheckConstraint("gateway <<= cidr", name="gateway_inside"),
    *_states(Lasting),
    sa.Index("subnet_cidr_key", "network_id", "cidr", unique=True, postgresql_where=sa.text("removed_at is null")),
)
security_group = _resource(
    "security_group",
    sa.Column("remote_ids", pg.ARRAY(UUID), nullable=False, server_default=sa.text("'{}'")),  # that its rules name
    *_states(Lasting),
    _unique_name("security_group", "project_id"),
    sa.Index(
        "security_group_remote_idx",
        "remote_ids",
        postgresql_using="gin",
        postgresql_where=sa.text("removed_at is null"),
    ),
)
vm_ = _resource(
    "vm",
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("flavor_id", UUID, nullable=False),
    sa.Column("image_id", UUID, nullable=False),
    sa.Column("user_data_secret", UUID),
    sa.Column("media_image_id", UUID),
    sa.CheckConstraint("epoch > 0", name="epoch_positive"),
    sa.CheckConstraint("state not in ('removing', 'removed') or (spec->>'gone')::boolean", name="removal_is_wished"),
    *_states(vm.State),
    _unique_name("vm", "project_id"),
    sa.Index("vm_project_idx", "project_id", "id"),
    sa.Index("vm_node_idx", "node_id", postgresql_where=sa.text("removed_at is null")),
    sa.Index("vm_labels_idx", "labels", postgresql_using="gin"),
    sa.Index("vm_media_image_idx", "media_image_id", postgresql_where=sa.text("removed_at is null")),
    sa.Index("vm_image_idx", "image_id", postgresql_where=sa.text("removed_at is null")),
)
volume_ = _resource(
    "volume",
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("image_id", UUID),
    sa.Column("source_id", UUID),  # the volume that it is a copy of
    *_states(volume.State),
    _unique_name("volume", "project_id"),
    sa.Index("volume_project_idx", "project_id", "id"),
)
snapshot_ = _resource(
    "snapshot",
    sa.Column("volume_id", UUID, sa.ForeignKey("volume.id"), nullable=False),
    sa.Column("node_id", UUID, nullable=False),
    *_states(snapshot.State),
    _unique_name("snapshot", "project_id"),
    sa.Index("snapshot_volume_idx", "volume_id"),
)
port = _resource(
    "port",
    sa.Column("network_id", UUID, nullable=False),
    sa.Column("vm_id", UUID, sa.ForeignKey("vm.id"), nullable=False),
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("mac", pg.MACADDR, nullable=False),
    sa.Column("group_ids", pg.ARRAY(UUID), nullable=False, server_default=sa.text("'{}'")),
    sa.CheckConstraint("epoch > 0", name="epoch_positive"),
    *_states(network.PortState),
    sa.Index("port_mac_key", "network_id", "mac", unique=True, postgresql_where=sa.text("removed_at is null")),
    sa.Index("port_vm_idx", "vm_id"),
    sa.Index("port_project_idx", "project_id", "id"),
    sa.Index("port_group_idx", "group_ids", postgresql_using="gin", postgresql_where=sa.text("removed_at is null")),
)
address = sa.Table(
    "address",
    metadata,
    sa.Column("network_id", UUID, primary_key=True),
    sa.Column("address", pg.INET, primary_key=True),
    sa.Column("subnet_id", UUID, nullable=False),
    sa.Column("port_id", UUID, sa.ForeignKey("port.id")),
    sa.Column("origin", sa.Text, nullable=False),
    sa.CheckConstraint("(origin = 'gateway') = (port_id is null)", name="gateway_has_no_port"),
    sa.CheckConstraint("origin in ('allocated', 'gateway')", name="origin_known"),
    sa.Index("address_port_idx", "port_id"),
)
attachment_ = sa.Table(
    "attachment",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("project_id", UUID, nullable=False),
    sa.Column("volume_id", UUID, sa.ForeignKey("volume.id"), nullable=False),
    sa.Column("vm_id", UUID, sa.ForeignKey("vm.id")),
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("index", sa.SmallInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("migration_id", UUID),
    sa.Column("proof", pg.JSONB),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="1"),
    sa.Column("operation_id", UUID),  # the job that holds it, when no vm does
    sa.CheckConstraint("(vm_id is null) <> (operation_id is null)", name="one_holder"),
    sa.CheckConstraint("state in ('active', 'incoming', 'revoking', 'revoked')", name="state_known"),
    sa.CheckConstraint("state <> 'incoming' or migration_id is not null", name="incoming_has_migration"),
    sa.CheckConstraint("state <> 'revoked' or proof is not null", name="revoked_has_proof"),
    sa.CheckConstraint("epoch > 0", name="epoch_positive"),
    # Not before the one before is proven to have ended: a right that is being revoked still stands.
    sa.Index(
        "attachment_active_key", "volume_id", unique=True, postgresql_where=sa.text("state in ('active', 'revoking')")
    ),
    sa.Index("attachment_epoch_key", "volume_id", "epoch", unique=True),
    sa.Index("attachment_vm_idx", "vm_id"),
)
inventory = sa.Table(
    "inventory",
    metadata,
    sa.Column("node_id", UUID, primary_key=True),
    sa.Column("class", sa.Text, primary_key=True),
    sa.Column("total", sa.BigInteger, nullable=False),
    sa.Column("reserved", sa.BigInteger, nullable=False),
    sa.Column("used", sa.BigInteger, nullable=False, server_default="0"),
    sa.CheckConstraint("used >= 0 and reserved >= 0 and reserved <= total", name="amounts_make_sense"),
)
allocation = sa.Table(
    "allocation",
    metadata,
    sa.Column("holder_id", UUID, primary_key=True),
    sa.Column("class", sa.Text, primary_key=True),
    sa.Column("node_id", UUID, primary_key=True),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.CheckConstraint("amount > 0", name="amount_positive"),
    sa.Index("allocation_node_idx", "node_id"),
)
operation_ = _resource(
    "operation",
    sa.Column("project_id", UUID),  # none: about something of the operators
    sa.Column("resource_kind", sa.Text, nullable=False),
    sa.Column("resource_id", UUID, nullable=False),
    sa.Column("node_id", UUID),
    sa.Column("deadline_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    *_states(operation.State, tombstone=None),
    sa.CheckConstraint("(state in ('done', 'overtaken', 'cancelled')) = (ended_at is not null)", name="ended_has_time"),
    sa.Index("operation_open_idx", "resource_id", postgresql_where=sa.text("ended_at is null")),
    sa.Index("operation_project_idx", "project_id", "id"),
    project=False,
)
decision = sa.Table(
    "decision",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("vm_id", UUID),  # null: refused, no vm was made
    sa.Column("project_id", UUID, nullable=False),
    sa.Column("node_id", UUID),
    sa.Column("answer", pg.JSONB, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.CheckConstraint("(vm_id is null) = (node_id is null)", name="placed_has_both"),
    sa.Index("decision_vm_idx", "vm_id"),
)
drift_ = _resource(
    "drift",
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("vm_id", UUID),
    sa.Column("thing_kind", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    *_states(drift.State, tombstone="resolved"),
    # one line of a thing and field at a time; the kind of thing is short, the name begins with the thing
    sa.Index(
        "drift_thing_key", "node_id", "thing_kind", "name", unique=True, postgresql_where=sa.text("removed_at is null")
    ),
    project=False,
)

# --- narrow tables: never in the change log
secret = sa.Table(
    "secret",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("sealed", sa.Text, nullable=False),
)
credential = sa.Table(
    "credential",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
)
wanted = sa.Table(
    "wanted",
    metadata,
    sa.Column("node_id", UUID, primary_key=True),
    sa.Column("vm_id", UUID, primary_key=True),  # of any kind: named so while processes of version 1 may run
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False, server_default="vm"),
    sa.CheckConstraint("kind in ('vm', 'volume', 'security_group')", name="kind_known"),
    sa.Index("wanted_revision_idx", "node_id", "revision"),
)
node_revision = sa.Table(
    "node_revision",
    metadata,
    sa.Column("node_id", UUID, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
)
node_seen = sa.Table(
    "node_seen",
    metadata,
    sa.Column("node_id", UUID, primary_key=True),
    sa.Column("session", sa.BigInteger, nullable=False),
    sa.Column("seen_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("revision", sa.BigInteger, nullable=False, server_default="0"),
)
idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("principal", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_sha256", sa.Text, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("answer", pg.JSONB, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.Index("idempotency_age_idx", "created_at"),
)
call = sa.Table(
    "call",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("project_id", UUID),
    sa.Column("request", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("kind", sa.Text),
    sa.Column("object_id", UUID),
    sa.Column("detail", pg.JSONB),
    sa.CheckConstraint("outcome in ('accepted', 'refused', 'failed', 'planned', 'read-secret')", name="outcome_known"),
    sa.Index("call_at_idx", "at"),
)
plan = sa.Table(
    "plan",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("principal", sa.Text, nullable=False),
    sa.Column("draft", pg.JSONB, nullable=False),
    sa.Column("shown", pg.JSONB, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Index("plan_expires_idx", "expires_at"),
)
question = sa.Table(
    "question",
    metadata,
    sa.Column("id", UUID, primary_key=True),
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("vm_id", UUID, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("max_bytes", sa.Integer, nullable=False),
    sa.Column("asked_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.Column("sent_session", sa.BigInteger),
    sa.Column("answer", sa.LargeBinary),
    sa.Column("error", sa.Text),
    sa.Column("answered_at", sa.TIMESTAMP(timezone=True)),
    sa.Index("question_open_idx", "node_id", postgresql_where=sa.text("answered_at is null")),
)
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("until", sa.TIMESTAMP(timezone=True), nullable=False),
)
fabric = sa.Table(
    "fabric",
    metadata,
    sa.Column("one", sa.Boolean, primary_key=True, server_default=sa.text("true")),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("fabric_epoch", sa.BigInteger, nullable=False, server_default="1"),
    sa.CheckConstraint("one", name="only_one"),
)
# The one order of locking and writing.
TABLES: tuple[Table, ...] = (
    Table(
        project,
        logged=True,
        transitions=LASTING,
        references=(("vm", "project_id"), ("volume", "project_id"), ("network", "project_id")),
    ),
    Table(user, logged=True, transitions=LASTING),
    Table(operator, logged=True, transitions=LASTING),
    Table(member, logged=True),
    Table(token, logged=True, transitions=LASTING),
    Table(keypair, logged=True, transitions=LASTING),
    Table(node_, logged=True, transitions=node.TRANSITIONS, references=(("vm", "node_id"), ("volume", "node_id"))),
    Table(join_token, logged=True),
    Table(virt_method, logged=True),
    Table(flavor, logged=True, transitions=LASTING),
    Table(
        image_,
        logged=True,
        transitions=image.TRANSITIONS,
        references=(("vm", "image_id"), ("vm", "media_image_id"), ("volume", "image_id")),
    ),
    Table(share, logged=True),
    Table(network_, logged=True, transitions=LASTING, references=(("port", "network_id"),)),
    Table(subnet, logged=True, transitions=LASTING),
    Table(
        security_group,
        logged=True,
        transitions=LASTING,
        references=(("port", "group_ids"), ("security_group", "remote_ids")),
    ),
    Table(vm_, logged=True, transitions=vm.TRANSITIONS),
    Table(volume_, logged=True, transitions=volume.TRANSITIONS),
    Table(snapshot_, logged=True, transitions=snapshot.TRANSITIONS),
    Table(port, logged=True),
    Table(address, logged=True),
    Table(attachment_, logged=True, transitions=attachment.TRANSITIONS),
    Table(operation_, logged=True, transitions=operation.TRANSITIONS),
    Table(drift_, logged=True, transitions=drift.TRANSITIONS),
    Table(allocation),
    Table(decision),
    Table(secret),
    Table(credential),
    Table(idempotency),
    Table(call),
    Table(plan),
    Table(node_seen),
    Table(node_revision),
    Table(inventory, logged=True, unlogged_columns=("used",)),
    Table(quota, logged=True, unlogged_columns=("used",)),
)
BY_NAME = {t.name: t for t in TABLES}
QUOTA_CLASSES = tuple(c.value for c in catalog.QuotaClass)
