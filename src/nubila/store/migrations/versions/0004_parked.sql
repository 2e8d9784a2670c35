create table parked (
    kind text not null,
    object_id uuid not null,
    reason text not null,
    since timestamptz not null default now(),
    until timestamptz not null,
    constraint parked_pk primary key (kind, object_id)
);
