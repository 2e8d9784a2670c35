"""Tables that are never in the change log: secrets, what was asked, who was heard from, who leads, what waits or rests."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from nubila.store.shape import NOW, UUID, metadata

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
parked = sa.Table(
    "parked",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("object_id", UUID, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", sa.TIMESTAMP(timezone=True), nullable=False, server_default=NOW),
    sa.Column("until", sa.TIMESTAMP(timezone=True), nullable=False),  # then background work tries once more
)
fabric = sa.Table(
    "fabric",
    metadata,
    sa.Column("one", sa.Boolean, primary_key=True, server_default=sa.text("true")),
    sa.Column("region", sa.Text, nullable=False),
    sa.Column("fabric_epoch", sa.BigInteger, nullable=False, server_default="1"),
    sa.CheckConstraint("one", name="only_one"),
)
