"""Every table, as SQLAlchemy Core, in one literal order.

The order of `TABLES` is the order in which every transaction locks and writes, so that no two can deadlock. `ddl.py`
generates triggers and the commit function from the marks here; rows arrive through that function only.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from nubila.model import attachment, catalog, drift, image, network, node, operation, snapshot, vm, volume
from nubila.store.narrow import call, credential, idempotency, node_revision, node_seen, plan, secret
from nubila.store.shape import LASTING, NOW, UUID, Lasting, Table, living, metadata, resource, states, unique_name

project = resource("project", *states(Lasting), unique_name("project"), project=False)
user = resource("user", *states(Lasting), unique_name("user"), project=False)
operator = resource("operator", *states(Lasting), unique_name("operator"), project=False)
member = sa.Table(
    "member",
    metadata,
    sa.Column("project_id", UUID, primary_key=True),
    sa.Column("user_id", UUID, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.CheckConstraint("role in ('owner', 'member', 'reader')", name="role_known"),
)
token = resource(
    "token",
    sa.Column("account_id", UUID, nullable=False),
    sa.Column("project_id", UUID),
    sa.Column("plane", sa.Text, nullable=False),
    sa.CheckConstraint("plane in ('user', 'operator')", name="plane_known"),
    sa.CheckConstraint("(plane = 'user') = (project_id is not null)", name="user_has_project"),
    *states(Lasting),
    sa.Index("token_account_idx", "account_id"),
    project=False,
)
keypair = resource(
    "keypair", sa.Column("user_id", UUID, nullable=False), *states(Lasting), unique_name("keypair", "project_id")
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
node_ = resource(
    "node",
    *states(node.State, tombstone="retired"),
    sa.CheckConstraint("state <> 'lost' or coalesce((spec->>'lost')::boolean, false)", name="loss_is_declared"),
    sa.CheckConstraint(
        "not coalesce((spec->>'maintenance')::boolean and (spec->>'draining')::boolean, false)", name="one_way_out"
    ),
    unique_name("node"),
    project=False,
)
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
flavor = resource("flavor", *states(Lasting), unique_name("flavor"), project=False)
image_ = resource(
    "image",
    sa.Column("project_id", UUID),
    sa.Column("sha256", sa.Text),
    sa.Column("fetch_secret", UUID),  # the whole address that its content comes from
    sa.CheckConstraint("state <> 'ready' or sha256 is not null", name="ready_has_content"),
    *states(image.State),
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
network_ = resource("network", *states(Lasting), unique_name("network", "project_id"))
subnet = resource(
    "subnet",
    sa.Column("network_id", UUID, nullable=False),
    sa.Column("cidr", pg.CIDR, nullable=False),
    sa.Column("gateway", pg.INET, nullable=False),
    sa.CheckConstraint("gateway <<= cidr", name="gateway_inside"),
    *states(Lasting),
    sa.Index("subnet_cidr_key", "network_id", "cidr", unique=True, postgresql_where=sa.text("removed_at is null")),
    sa.Index(  # which others overlap
        "subnet_range_idx",
        sa.text("(cidr::inet) inet_ops"),
        postgresql_using="gist",
        postgresql_where=sa.text("removed_at is null and cidr::inet is not null"),
    ),
)
security_group = resource(
    "security_group",
    sa.Column("remote_ids", pg.ARRAY(UUID), nullable=False, server_default=sa.text("'{}'")),  # that its rules name
    *states(Lasting),
    unique_name("security_group", "project_id"),
    living("security_group_remote_idx", "remote_ids", using="gin"),
)
vm_ = resource(
    "vm",
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("flavor_id", UUID, nullable=False),
    sa.Column("image_id", UUID, nullable=False),
    sa.Column("user_data_secret", UUID),
    sa.Column("media_image_id", UUID),
    sa.CheckConstraint("epoch > 0", name="epoch_positive"),
    sa.CheckConstraint("state not in ('removing', 'removed') or (spec->>'gone')::boolean", name="removal_is_wished"),
    *states(vm.State),
    unique_name("vm", "project_id"),
    sa.Index("vm_project_idx", "project_id", "id"),
    living("vm_node_idx", "node_id"),
    sa.Index("vm_labels_idx", "labels", postgresql_using="gin"),
    living("vm_media_image_idx", "media_image_id"),
    living("vm_image_idx", "image_id"),
)
volume_ = resource(
    "volume",
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("image_id", UUID),
    sa.Column("source_id", UUID),  # the volume that it is a copy of
    *states(volume.State),
    unique_name("volume", "project_id"),
    sa.Index("volume_project_idx", "project_id", "id"),
)
snapshot_ = resource(
    "snapshot",
    sa.Column("volume_id", UUID, sa.ForeignKey("volume.id"), nullable=False),
    sa.Column("node_id", UUID, nullable=False),
    *states(snapshot.State),
    unique_name("snapshot", "project_id"),
    sa.Index("snapshot_volume_idx", "volume_id"),
)
port = resource(
    "port",
    sa.Column("network_id", UUID, nullable=False),
    sa.Column("vm_id", UUID, sa.ForeignKey("vm.id"), nullable=False),
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("mac", pg.MACADDR, nullable=False),
    sa.Column("group_ids", pg.ARRAY(UUID), nullable=False, server_default=sa.text("'{}'")),
    sa.CheckConstraint("epoch > 0", name="epoch_positive"),
    *states(network.PortState),
    sa.Index("port_mac_key", "network_id", "mac", unique=True, postgresql_where=sa.text("removed_at is null")),
    sa.Index("port_vm_idx", "vm_id"),
    sa.Index("port_project_idx", "project_id", "id"),
    living("port_group_idx", "group_ids", using="gin"),
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
operation_ = resource(
    "operation",
    sa.Column("project_id", UUID),  # none: about something of the operators
    sa.Column("resource_kind", sa.Text, nullable=False),
    sa.Column("resource_id", UUID, nullable=False),
    sa.Column("node_id", UUID),
    sa.Column("deadline_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    *states(operation.State, tombstone=None),
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
drift_ = resource(
    "drift",
    sa.Column("node_id", UUID, nullable=False),
    sa.Column("vm_id", UUID),
    sa.Column("thing_kind", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    *states(drift.State, tombstone="resolved"),
    # one line of a thing and field at a time; the kind of thing is short, the name begins with the thing
    sa.Index(
        "drift_thing_key", "node_id", "thing_kind", "name", unique=True, postgresql_where=sa.text("removed_at is null")
    ),
    project=False,
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
    Table(
        node_,
        logged=True,
        transitions=node.TRANSITIONS,
        references=(
            ("vm", "node_id"),
            ("volume", "node_id"),
            ("snapshot", "node_id"),
            ("port", "node_id"),
            ("allocation", "node_id"),
        ),
    ),
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
