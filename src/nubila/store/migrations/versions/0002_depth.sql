-- Written by hand: from the schema of 0001 to what tables.py says. 0002_functions.sql (generated) runs after it.

-- while tables are small the planner takes any partial index whose condition holds
drop index operation_due_idx;
drop index port_vm_idx;
create index port_vm_idx on port (vm_id);

create table drift (
    id uuid not null,
    name text not null,
    labels jsonb default '{}' not null,
    spec jsonb not null,
    spec_schema smallint default '1' not null,
    generation bigint default '1' not null,
    status jsonb,
    status_schema smallint default '1' not null,
    observed_generation bigint default '0' not null,
    state text not null,
    version bigint default '1' not null,
    created_at timestamp with time zone default now() not null,
    updated_at timestamp with time zone default now() not null,
    removed_at timestamp with time zone,
    node_id uuid not null,
    vm_id uuid,
    thing_kind text not null,
    cause text not null,
    constraint drift_pk primary key (id),
    constraint drift_state_known check (state in ('open', 'ignored', 'resolved')),
    constraint drift_removed_has_time check ((state = 'resolved') = (removed_at is not null)),
    constraint drift_observed_not_ahead check (observed_generation <= generation)
) with (fillfactor = 70);
create unique index drift_thing_key on drift (node_id, thing_kind, name) where removed_at is null;
-- a vm may be suspended, or crashed and preserved
alter table vm drop constraint vm_state_known;
alter table vm add constraint vm_state_known check (state in ('pending', 'starting', 'running', 'rebooting', 'stopping',
  'stopped', 'suspended', 'crashed', 'failed', 'removing', 'removed'));
-- a page of a small project's list is no walk over everybody's, now or then
create index vm_project_idx on vm (project_id, id);
create index volume_project_idx on volume (project_id, id);
create index port_project_idx on port (project_id, id);

-- the change log: rows of more than one fabric epoch, found by object in the order they were made
alter table change add column fabric_epoch bigint not null default 1;
alter table change drop constraint change_pkey;
alter table change add primary key (fabric_epoch, xid, seq);
alter table change drop constraint change_action_check;
alter table change add constraint change_action_check check (action in ('insert', 'update', 'delete', 'baseline'));
drop index change_object_idx;
create index change_object_idx on change (object_id, seq);
drop index change_project_idx;
create index change_project_idx on change (project_id, fabric_epoch, xid, seq);
create table seal (
    block bigint primary key,
    at timestamptz not null default clock_timestamp(),
    fabric_epoch bigint not null,
    low xid8 not null,
    horizon xid8 not null,
    count bigint not null,
    digests bytea,
    digest text not null,
    previous text not null,
    hash text not null
);
-- images: brought by Nubila itself, and shared between projects
alter table image add column fetch_secret uuid;
alter table image drop constraint image_state_known;
alter table image add constraint image_state_known check (state in ('pending', 'ready', 'failed', 'removed'));
create table share (
    kind text not null,
    object_id uuid not null,
    project_id uuid not null,
    "right" text not null,
    constraint share_pk primary key (kind, object_id, project_id),
    constraint share_kind_known check (kind = 'image'),
    constraint share_right_known check ("right" = 'use')
);
create index share_project_idx on share (project_id, kind);
alter table operation alter column project_id drop not null;

-- volumes are wished on their own, snapshots exist, and a job may hold a volume
alter table wanted add column kind text not null default 'vm';
alter table wanted add constraint wanted_kind_known check (kind in ('vm', 'volume'));
alter table attachment alter column vm_id drop not null;
alter table attachment add column operation_id uuid;
alter table attachment add constraint attachment_one_holder check ((vm_id is null) <> (operation_id is null));
drop index attachment_active_key;
create unique index attachment_active_key on attachment (volume_id) where state in ('active', 'revoking');
alter table volume add column source_id uuid;
create table snapshot (
    id uuid not null,
    project_id uuid not null,
    name text not null,
    labels jsonb default '{}' not null,
    spec jsonb not null,
    spec_schema smallint default '1' not null,
    generation bigint default '1' not null,
    status jsonb,
    status_schema smallint default '1' not null,
    observed_generation bigint default '0' not null,
    state text not null,
    version bigint default '1' not null,
    created_at timestamp with time zone default now() not null,
    updated_at timestamp with time zone default now() not null,
    removed_at timestamp with time zone,
    volume_id uuid not null,
    node_id uuid not null,
    constraint snapshot_pk primary key (id),
    constraint snapshot_observed_not_ahead check (observed_generation <= generation),
    constraint snapshot_state_known check (state in ('pending', 'ready', 'failed', 'removing', 'removed')),
    constraint snapshot_removed_has_time check ((state = 'removed') = (removed_at is not null)),
    constraint snapshot_volume_id_fk foreign key (volume_id) references volume (id)
) with (fillfactor = 70);
create unique index snapshot_name_key on snapshot (project_id, name) where removed_at is null;
create index snapshot_volume_idx on snapshot (volume_id);
create table anchor (
    node_id uuid primary key,
    fabric_epoch bigint not null,
    block bigint not null,
    hash text not null,
    told_at timestamptz not null default now()
);

-- security groups, and hints about them
alter table wanted drop constraint wanted_kind_known;
alter table wanted add constraint wanted_kind_known check (kind in ('vm', 'volume', 'security_group'));
create table security_group (
    id uuid not null,
    project_id uuid not null,
    name text not null,
    labels jsonb default '{}' not null,
    spec jsonb not null,
    spec_schema smallint default '1' not null,
    generation bigint default '1' not null,
    status jsonb,
    status_schema smallint default '1' not null,
    observed_generation bigint default '0' not null,
    state text not null,
    version bigint default '1' not null,
    created_at timestamp with time zone default now() not null,
    updated_at timestamp with time zone default now() not null,
    removed_at timestamp with time zone,
    remote_ids uuid[] default '{}' not null,
    constraint security_group_pk primary key (id),
    constraint security_group_observed_not_ahead check (observed_generation <= generation),
    constraint security_group_state_known check (state in ('active', 'removed')),
    constraint security_group_removed_has_time check ((state = 'removed') = (removed_at is not null))
) with (fillfactor = 70);
create unique index security_group_name_key on security_group (project_id, name) where removed_at is null;
create index security_group_remote_idx on security_group using gin (remote_ids) where removed_at is null;
alter table port add column group_ids uuid[] not null default '{}';
create index port_group_idx on port using gin (group_ids) where removed_at is null;
-- what runs goes on being reached as new ports are: by ssh and ping
insert into security_group (id, project_id, name, spec, state, status, observed_generation)
select gen_random_uuid(), p.id, 'default', '{"description": "What ports are in unless others are named: ssh and ping from anywhere, everything to anywhere.", "rules": [
    {"direction": "in", "protocol": "tcp", "port_min": 22, "port_max": 22, "cidr": null, "group": null, "family": null},
    {"direction": "in", "protocol": "icmp", "port_min": null, "port_max": null, "cidr": null, "group": null, "family": null},
    {"direction": "out", "protocol": "any", "port_min": null, "port_max": null, "cidr": null, "group": null, "family": null}]}', 'active', '{}', 1
  from project p where p.removed_at is null;
alter table port disable trigger user;
update port set group_ids = array[g.id] from security_group g where g.project_id = port.project_id and port.removed_at is null;
alter table port enable trigger user;
-- the image in a vm's drive is used by it
alter table vm add column media_image_id uuid;
create index vm_media_image_idx on vm (media_image_id) where removed_at is null;
