create or replace function log_change() returns trigger language plpgsql as $$
declare
    content jsonb := to_jsonb(case when tg_op = 'DELETE' then old else new end);
    was jsonb;
begin
    -- arguments: the column that names the object, the one that names its project ('' for none), and columns to hide
    for i in 2 .. tg_nargs - 1 loop
        content := content - tg_argv[i];
    end loop;
    if tg_op = 'UPDATE' and tg_argv[0] <> 'id' then
        -- a row that goes to another holder is gone from the one that had it
        was := to_jsonb(old);
        if was->>tg_argv[0] is not distinct from content->>tg_argv[0] then
            was := null;
        end if;
    end if;
    for i in case when was is null then 1 else 0 end .. 1 loop
        insert into change (at, actor, request, reason, kind, object_id, project_id, generation, schema_number, action, content)
        values (
            -- one time for all rows of a commit: no moment lies between them
            coalesce(nullif(current_setting('nubila.at', true), '')::timestamptz, clock_timestamp()),
            nullif(current_setting('nubila.actor', true), ''),
            -- of a commit that writes several drafts, the one that this object came with
            coalesce(nullif(current_setting('nubila.requests', true), '')::jsonb->>(content->>tg_argv[0]),
                nullif(current_setting('nubila.request', true), '')),
            nullif(current_setting('nubila.reason', true), ''),
            tg_table_name,
            (case when i = 0 then was else content end->>tg_argv[0])::uuid,
            (case when i = 0 then was else content end->>tg_argv[1])::uuid,
            (case when i = 0 then was else content end->>'generation')::bigint,
            coalesce((case when i = 0 then was else content end->>'spec_schema')::smallint, 1),
            case when i = 0 then 'delete' else lower(tg_op) end,
            case when i = 0 then was else content end);
    end loop;
    return null;
end $$;

create or replace function guard_transition() returns trigger language plpgsql as $$
begin
    if not (old.state || '>' || new.state = any (tg_argv)) then
        raise exception using errcode = 'NB422', message = 'transition',
            detail = tg_table_name || ' cannot go from ' || old.state || ' to ' || new.state;
    end if;
    return new;
end $$;

create or replace function guard_empty() returns trigger language plpgsql as $$
begin
    raise exception using errcode = 'NB409', message = 'stale', detail = jsonb_build_array(jsonb_build_object(
        'kind', 'inventory', 'id', old.node_id, 'class', old.class, 'was', 'unused', 'is_now', 'used'))::text;
end $$;


create or replace trigger log_insert_delete after insert or delete on "project" for each row execute function log_change('id', 'id');

create or replace trigger log_update after update on "project" for each row execute function log_change('id', 'id');

create or replace trigger guard_state before update of state on "project" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "user" for each row execute function log_change('id', '');

create or replace trigger log_update after update on "user" for each row execute function log_change('id', '');

create or replace trigger guard_state before update of state on "user" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "operator" for each row execute function log_change('id', '');

create or replace trigger log_update after update on "operator" for each row execute function log_change('id', '');

create or replace trigger guard_state before update of state on "operator" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "member" for each row execute function log_change('project_id', 'project_id');

create or replace trigger log_update after update on "member" for each row execute function log_change('project_id', 'project_id');

create or replace trigger log_insert_delete after insert or delete on "token" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "token" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "token" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "keypair" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "keypair" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "keypair" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "node" for each row execute function log_change('id', '');

create or replace trigger log_update after update on "node" for each row execute function log_change('id', '');

create or replace trigger guard_state before update of state on "node" for each row when (old.state is distinct from new.state) execute function guard_transition('draining>lost', 'draining>maintenance', 'draining>retired', 'draining>running', 'enrolling>draining', 'enrolling>maintenance', 'enrolling>retired', 'enrolling>running', 'lost>maintenance', 'lost>retired', 'maintenance>draining', 'maintenance>lost', 'maintenance>retired', 'maintenance>running', 'running>draining', 'running>lost', 'running>maintenance', 'running>retired');

create or replace trigger log_insert_delete after insert or delete on "join_token" for each row execute function log_change('id', '');

create or replace trigger log_update after update on "join_token" for each row execute function log_change('id', '');

create or replace trigger log_insert_delete after insert or delete on "virt_method" for each row execute function log_change('node_id', '');

create or replace trigger log_update after update on "virt_method" for each row execute function log_change('node_id', '');

create or replace trigger log_insert_delete after insert or delete on "flavor" for each row execute function log_change('id', '');

create or replace trigger log_update after update on "flavor" for each row execute function log_change('id', '');

create or replace trigger guard_state before update of state on "flavor" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "image" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "image" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "image" for each row when (old.state is distinct from new.state) execute function guard_transition('failed>removed', 'pending>failed', 'pending>ready', 'pending>removed', 'ready>removed');

create or replace trigger log_insert_delete after insert or delete on "share" for each row execute function log_change('project_id', 'project_id');

create or replace trigger log_update after update on "share" for each row execute function log_change('project_id', 'project_id');

create or replace trigger log_insert_delete after insert or delete on "network" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "network" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "network" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "subnet" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "subnet" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "subnet" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "security_group" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "security_group" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "security_group" for each row when (old.state is distinct from new.state) execute function guard_transition('active>removed');

create or replace trigger log_insert_delete after insert or delete on "vm" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "vm" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "vm" for each row when (old.state is distinct from new.state) execute function guard_transition('crashed>failed', 'crashed>rebooting', 'crashed>removing', 'crashed>running', 'crashed>starting', 'crashed>stopped', 'crashed>stopping', 'crashed>suspended', 'failed>crashed', 'failed>rebooting', 'failed>removing', 'failed>running', 'failed>starting', 'failed>stopped', 'failed>stopping', 'failed>suspended', 'pending>crashed', 'pending>failed', 'pending>rebooting', 'pending>removing', 'pending>running', 'pending>starting', 'pending>stopped', 'pending>stopping', 'pending>suspended', 'rebooting>crashed', 'rebooting>failed', 'rebooting>removing', 'rebooting>running', 'rebooting>starting', 'rebooting>stopped', 'rebooting>stopping', 'rebooting>suspended', 'removing>removed', 'running>crashed', 'running>failed', 'running>rebooting', 'running>removing', 'running>starting', 'running>stopped', 'running>stopping', 'running>suspended', 'starting>crashed', 'starting>failed', 'starting>rebooting', 'starting>removing', 'starting>running', 'starting>stopped', 'starting>stopping', 'starting>suspended', 'stopped>crashed', 'stopped>failed', 'stopped>rebooting', 'stopped>removing', 'stopped>running', 'stopped>starting', 'stopped>stopping', 'stopped>suspended', 'stopping>crashed', 'stopping>failed', 'stopping>rebooting', 'stopping>removing', 'stopping>running', 'stopping>starting', 'stopping>stopped', 'stopping>suspended', 'suspended>crashed', 'suspended>failed', 'suspended>rebooting', 'suspended>removing', 'suspended>running', 'suspended>starting', 'suspended>stopped', 'suspended>stopping');

create or replace trigger log_insert_delete after insert or delete on "volume" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "volume" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "volume" for each row when (old.state is distinct from new.state) execute function guard_transition('failed>pending', 'failed>ready', 'failed>removing', 'pending>failed', 'pending>ready', 'pending>removing', 'ready>failed', 'ready>pending', 'ready>removing', 'removing>removed');

create or replace trigger log_insert_delete after insert or delete on "snapshot" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "snapshot" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "snapshot" for each row when (old.state is distinct from new.state) execute function guard_transition('failed>pending', 'failed>ready', 'failed>removing', 'pending>failed', 'pending>ready', 'pending>removing', 'ready>failed', 'ready>removing', 'removing>removed');

create or replace trigger log_insert_delete after insert or delete on "port" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "port" for each row execute function log_change('id', 'project_id');

create or replace trigger log_insert_delete after insert or delete on "address" for each row execute function log_change('port_id', '');

create or replace trigger log_update after update on "address" for each row execute function log_change('port_id', '');

create or replace trigger log_insert_delete after insert or delete on "attachment" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "attachment" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "attachment" for each row when (old.state is distinct from new.state) execute function guard_transition('active>revoked', 'active>revoking', 'incoming>active', 'incoming>revoked', 'incoming>revoking', 'revoking>revoked');

create or replace trigger log_insert_delete after insert or delete on "operation" for each row execute function log_change('id', 'project_id');

create or replace trigger log_update after update on "operation" for each row execute function log_change('id', 'project_id');

create or replace trigger guard_state before update of state on "operation" for each row when (old.state is distinct from new.state) execute function guard_transition('running>cancelled', 'running>done', 'running>overtaken', 'waiting>cancelled', 'waiting>done', 'waiting>overtaken', 'waiting>running');

create or replace trigger log_insert_delete after insert or delete on "drift" for each row execute function log_change('id', '');

create or replace trigger log_update after update on "drift" for each row execute function log_change('id', '');

create or replace trigger guard_state before update of state on "drift" for each row when (old.state is distinct from new.state) execute function guard_transition('ignored>open', 'ignored>resolved', 'open>ignored', 'open>resolved');

create or replace trigger log_insert_delete after insert or delete on "inventory" for each row execute function log_change('node_id', '', 'used');

create or replace trigger log_update after update of "total", "reserved" on "inventory" for each row execute function log_change('node_id', '', 'used');

create or replace trigger log_insert_delete after insert or delete on "quota" for each row execute function log_change('project_id', 'project_id', 'used');

create or replace trigger log_update after update of "amount" on "quota" for each row execute function log_change('project_id', 'project_id', 'used');

create or replace trigger guard_empty before delete on inventory for each row when (old.used > 0) execute function guard_empty();

create or replace function commit_5(d jsonb) returns jsonb language plpgsql set plan_cache_mode = force_generic_plan as $commit$
declare
  f jsonb; e jsonb; uses jsonb; bad jsonb := '[]'; w jsonb; n bigint; g bigint; v bigint; dead boolean; out jsonb := '{}';
  ff jsonb := d->'facts'; fu jsonb := d->'unused'; fd jsonb := d->'delete'; fc jsonb := d->'update'; fi jsonb := d->'insert';
begin
  perform set_config('nubila.actor', coalesce(d->>'actor', ''), true),
          set_config('nubila.request', coalesce(d->>'request', ''), true),
          set_config('nubila.requests', coalesce(d->>'requests', ''), true),
          set_config('nubila.reason', coalesce(d->>'reason', ''), true);
  -- facts

  if ff ?| array['project', 'user', 'operator', 'token', 'keypair', 'node'] then
  if ff ? 'project' then f := ff->'project';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "project" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'project', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'project', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "project" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'project', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'project', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "project" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'project', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'project', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'user' then f := ff->'user';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "user" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'user', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'user', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "user" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'user', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'user', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "user" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'user', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'user', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'operator' then f := ff->'operator';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "operator" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'operator', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'operator', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "operator" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'operator', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'operator', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "operator" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'operator', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'operator', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'token' then f := ff->'token';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "token" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'token', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'token', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "token" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'token', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'token', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "token" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'token', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'token', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'keypair' then f := ff->'keypair';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "keypair" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'keypair', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'keypair', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "keypair" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'keypair', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'keypair', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "keypair" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'keypair', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'keypair', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'node' then f := ff->'node';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "node" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'node', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'node', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "node" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'node', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'node', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "node" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'node', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'node', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  end if;
  if ff ?| array['join_token', 'flavor', 'image', 'network', 'subnet', 'security_group'] then
  if ff ? 'join_token' then f := ff->'join_token';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "join_token" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'join_token', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'join_token', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "join_token" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'join_token', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'join_token', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "join_token" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'join_token', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'join_token', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'flavor' then f := ff->'flavor';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "flavor" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'flavor', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'flavor', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "flavor" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'flavor', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'flavor', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "flavor" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'flavor', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'flavor', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'image' then f := ff->'image';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "image" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'image', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'image', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "image" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'image', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'image', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "image" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'image', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'image', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'network' then f := ff->'network';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "network" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'network', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'network', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "network" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'network', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'network', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "network" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'network', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'network', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'subnet' then f := ff->'subnet';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "subnet" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'subnet', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'subnet', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "subnet" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'subnet', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'subnet', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "subnet" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'subnet', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'subnet', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'security_group' then f := ff->'security_group';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "security_group" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'security_group', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'security_group', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "security_group" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'security_group', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'security_group', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "security_group" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'security_group', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'security_group', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  end if;
  if ff ?| array['vm', 'volume', 'snapshot', 'port', 'attachment', 'operation'] then
  if ff ? 'vm' then f := ff->'vm';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "vm" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'vm', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'vm', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "vm" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'vm', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'vm', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "vm" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'vm', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'vm', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'volume' then f := ff->'volume';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "volume" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'volume', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'volume', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "volume" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'volume', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'volume', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "volume" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'volume', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'volume', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'snapshot' then f := ff->'snapshot';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "snapshot" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'snapshot', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'snapshot', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "snapshot" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'snapshot', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'snapshot', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "snapshot" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'snapshot', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'snapshot', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'port' then f := ff->'port';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "port" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'port', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'port', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "port" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'port', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'port', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "port" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'port', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'port', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'attachment' then f := ff->'attachment';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, t.version, false into g, v, dead from "attachment" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'attachment', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'attachment', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, t.version, false into g, v, dead from "attachment" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'attachment', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'attachment', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, t.version, false into g, v, dead from "attachment" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'attachment', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'attachment', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'operation' then f := ff->'operation';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "operation" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'operation', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'operation', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "operation" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'operation', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'operation', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "operation" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'operation', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'operation', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  end if;
  if ff ?| array['drift', 'decision', 'secret', 'credential', 'call', 'plan'] then
  if ff ? 'drift' then f := ff->'drift';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "drift" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'drift', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'drift', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "drift" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'drift', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'drift', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select t.generation, t.version, t.removed_at is not null into g, v, dead from "drift" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'drift', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'drift', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'decision' then f := ff->'decision';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "decision" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'decision', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'decision', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "decision" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'decision', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'decision', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "decision" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'decision', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'decision', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'secret' then f := ff->'secret';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "secret" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'secret', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'secret', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "secret" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'secret', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'secret', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "secret" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'secret', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'secret', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'credential' then f := ff->'credential';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "credential" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'credential', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'credential', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "credential" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'credential', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'credential', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "credential" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'credential', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'credential', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'call' then f := ff->'call';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "call" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'call', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'call', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "call" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'call', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'call', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "call" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'call', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'call', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  if ff ? 'plan' then f := ff->'plan';
    if f ? 'read' then uses := f->'read'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "plan" t where t.id = (e->>'id')::uuid for key share;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'plan', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'plan', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'write' then uses := f->'write'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "plan" t where t.id = (e->>'id')::uuid for no key update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'plan', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'plan', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
    if f ? 'remove' then uses := f->'remove'; for i in 0 .. jsonb_array_length(uses) - 1 loop e := uses->i;
      select null::bigint, null::bigint, false into g, v, dead from "plan" t where t.id = (e->>'id')::uuid for update;
      if not found or dead then
        bad := bad || jsonb_build_object('kind', 'plan', 'id', e->'id', 'was', coalesce(e->'g', e->'v', 'true'), 'is_now', 'gone');
      elsif g <> (e->>'g')::bigint or v <> (e->>'v')::bigint then
        bad := bad || jsonb_build_object('kind', 'plan', 'id', e->'id', 'was', coalesce(e->'g', e->'v'),
          'is_now', case when e ? 'g' then g else v end);
      end if;
    end loop; end if;
  end if;
  end if;

  if fu ?| array['project', 'node', 'image', 'network', 'security_group'] then
  if fu ? 'project' then f := fu->'project';
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'project', 'id', u."project_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'vm', 'user', u."id")), '[]') into bad from "vm" u
     where u."project_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'project', 'id', u."project_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'volume', 'user', u."id")), '[]') into bad from "volume" u
     where u."project_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'project', 'id', u."project_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'network', 'user', u."id")), '[]') into bad from "network" u
     where u."project_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
  end if;
  if fu ? 'node' then f := fu->'node';
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'node', 'id', u."node_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'vm', 'user', u."id")), '[]') into bad from "vm" u
     where u."node_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'node', 'id', u."node_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'volume', 'user', u."id")), '[]') into bad from "volume" u
     where u."node_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'node', 'id', u."node_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'snapshot', 'user', u."id")), '[]') into bad from "snapshot" u
     where u."node_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'node', 'id', u."node_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'port', 'user', u."id")), '[]') into bad from "port" u
     where u."node_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'node', 'id', u."node_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'allocation', 'user', u."holder_id")), '[]') into bad from "allocation" u
     where u."node_id" in (select x::uuid from jsonb_array_elements_text(f) x);
  end if;
  if fu ? 'image' then f := fu->'image';
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'image', 'id', u."image_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'vm', 'user', u."id")), '[]') into bad from "vm" u
     where u."image_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'image', 'id', u."media_image_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'vm', 'user', u."id")), '[]') into bad from "vm" u
     where u."media_image_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'image', 'id', u."image_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'volume', 'user', u."id")), '[]') into bad from "volume" u
     where u."image_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
  end if;
  if fu ? 'network' then f := fu->'network';
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'network', 'id', u."network_id", 'was', 'unused',
        'is_now', 'used', 'user_kind', 'port', 'user', u."id")), '[]') into bad from "port" u
     where u."network_id" in (select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
  end if;
  if fu ? 'security_group' then f := fu->'security_group';
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'security_group', 'id', f->0, 'was', 'unused',
        'is_now', 'used', 'user_kind', 'port', 'user', u."id")), '[]') into bad from "port" u
     where u."group_ids" && array(select x::uuid from jsonb_array_elements_text(f) x) and u.removed_at is null;
    select bad || coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'security_group', 'id', f->0, 'was', 'unused',
        'is_now', 'used', 'user_kind', 'security_group', 'user', u."id")), '[]') into bad from "security_group" u
     where u."remote_ids" && array(select x::uuid from jsonb_array_elements_text(f) x) and not f ? u.id::text and u.removed_at is null;
  end if;
  end if;
  if bad <> '[]' then
    raise exception using errcode = 'NB409', message = 'stale', detail = bad::text;
  end if;
  -- rows; their time is taken when what they rest on is locked, so that of one object later rows have later times
  perform set_config('nubila.at', clock_timestamp()::text, true);

  if fd ?| array['project', 'user', 'operator', 'member', 'token', 'keypair'] or fc ?| array['project', 'user', 'operator', 'member', 'token', 'keypair'] or fi ?| array['project', 'user', 'operator', 'member', 'token', 'keypair'] then
  if fd ? 'project' then
    delete from "project" t using jsonb_array_elements(fd->'project') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'project' then f := fc->'project';
    update "project" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'project', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "project" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'project' then f := fi->'project';
    insert into "project" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at" from jsonb_populate_recordset(null::"project", f) r order by r."id";
  end if;
  if fd ? 'user' then
    delete from "user" t using jsonb_array_elements(fd->'user') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'user' then f := fc->'user';
    update "user" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'user', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "user" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'user' then f := fi->'user';
    insert into "user" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at" from jsonb_populate_recordset(null::"user", f) r order by r."id";
  end if;
  if fd ? 'operator' then
    delete from "operator" t using jsonb_array_elements(fd->'operator') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'operator' then f := fc->'operator';
    update "operator" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'operator', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "operator" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'operator' then f := fi->'operator';
    insert into "operator" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at" from jsonb_populate_recordset(null::"operator", f) r order by r."id";
  end if;
  if fd ? 'member' then
    delete from "member" t using jsonb_array_elements(fd->'member') x where x ? 'project_id' and t."project_id" = (x->>'project_id')::UUID and t."user_id" = (x->>'user_id')::UUID;
  end if;
  if fc ? 'member' then f := fc->'member';
    update "member" t set ("role") = (select r."role" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'project_id' and t."project_id" = (x->>'project_id')::UUID and t."user_id" = (x->>'user_id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'member', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "member" t where x ? 'project_id' and t."project_id" = (x->>'project_id')::UUID and t."user_id" = (x->>'user_id')::UUID))::text;
    end if;
  end if;
  if fi ? 'member' then f := fi->'member';
    insert into "member" ("project_id", "user_id", "role")
    select r."project_id", r."user_id", r."role" from jsonb_populate_recordset(null::"member", f) r order by r."project_id", r."user_id";
  end if;
  if fd ? 'token' then
    delete from "token" t using jsonb_array_elements(fd->'token') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'token' then f := fc->'token';
    update "token" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "account_id", "project_id", "plane") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."account_id", r."project_id", r."plane" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'token', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "token" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'token' then f := fi->'token';
    insert into "token" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "account_id", "project_id", "plane")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."account_id", r."project_id", r."plane" from jsonb_populate_recordset(null::"token", f) r order by r."id";
  end if;
  if fd ? 'keypair' then
    delete from "keypair" t using jsonb_array_elements(fd->'keypair') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'keypair' then f := fc->'keypair';
    update "keypair" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "user_id") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."user_id" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'keypair', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "keypair" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'keypair' then f := fi->'keypair';
    insert into "keypair" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "user_id")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."user_id" from jsonb_populate_recordset(null::"keypair", f) r order by r."id";
  end if;
  end if;
  if fd ?| array['node', 'join_token', 'virt_method', 'flavor', 'image', 'share'] or fc ?| array['node', 'join_token', 'virt_method', 'flavor', 'image', 'share'] or fi ?| array['node', 'join_token', 'virt_method', 'flavor', 'image', 'share'] then
  if fd ? 'node' then
    delete from "node" t using jsonb_array_elements(fd->'node') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'node' then f := fc->'node';
    update "node" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'node', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "node" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'node' then f := fi->'node';
    insert into "node" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at" from jsonb_populate_recordset(null::"node", f) r order by r."id";
  end if;
  if fd ? 'join_token' then
    delete from "join_token" t using jsonb_array_elements(fd->'join_token') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'join_token' then f := fc->'join_token';
    update "join_token" t set ("spec", "expires_at", "used_at", "node_id") = (select r."spec", r."expires_at", r."used_at", r."node_id" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'join_token', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "join_token" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'join_token' then f := fi->'join_token';
    insert into "join_token" ("id", "spec", "expires_at", "used_at", "node_id")
    select r."id", r."spec", r."expires_at", r."used_at", r."node_id" from jsonb_populate_recordset(null::"join_token", f) r order by r."id";
  end if;
  if fd ? 'virt_method' then
    delete from "virt_method" t using jsonb_array_elements(fd->'virt_method') x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID and t."name" = (x->>'name')::TEXT;
  end if;
  if fc ? 'virt_method' then f := fc->'virt_method';
    update "virt_method" t set ("capabilities") = (select r."capabilities" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID and t."name" = (x->>'name')::TEXT;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'virt_method', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "virt_method" t where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID and t."name" = (x->>'name')::TEXT))::text;
    end if;
  end if;
  if fi ? 'virt_method' then f := fi->'virt_method';
    insert into "virt_method" ("node_id", "name", "capabilities")
    select r."node_id", r."name", r."capabilities" from jsonb_populate_recordset(null::"virt_method", f) r order by r."node_id", r."name";
  end if;
  if fd ? 'flavor' then
    delete from "flavor" t using jsonb_array_elements(fd->'flavor') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'flavor' then f := fc->'flavor';
    update "flavor" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'flavor', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "flavor" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'flavor' then f := fi->'flavor';
    insert into "flavor" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at" from jsonb_populate_recordset(null::"flavor", f) r order by r."id";
  end if;
  if fd ? 'image' then
    delete from "image" t using jsonb_array_elements(fd->'image') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'image' then f := fc->'image';
    update "image" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "project_id", "sha256", "fetch_secret") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."project_id", r."sha256", r."fetch_secret" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'image', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "image" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'image' then f := fi->'image';
    insert into "image" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "project_id", "sha256", "fetch_secret")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."project_id", r."sha256", r."fetch_secret" from jsonb_populate_recordset(null::"image", f) r order by r."id";
  end if;
  if fd ? 'share' then
    delete from "share" t using jsonb_array_elements(fd->'share') x where x ? 'kind' and t."kind" = (x->>'kind')::TEXT and t."object_id" = (x->>'object_id')::UUID and t."project_id" = (x->>'project_id')::UUID;
  end if;
  if fc ? 'share' then f := fc->'share';
    update "share" t set ("right") = (select r."right" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'kind' and t."kind" = (x->>'kind')::TEXT and t."object_id" = (x->>'object_id')::UUID and t."project_id" = (x->>'project_id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'share', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "share" t where x ? 'kind' and t."kind" = (x->>'kind')::TEXT and t."object_id" = (x->>'object_id')::UUID and t."project_id" = (x->>'project_id')::UUID))::text;
    end if;
  end if;
  if fi ? 'share' then f := fi->'share';
    insert into "share" ("kind", "object_id", "project_id", "right")
    select r."kind", r."object_id", r."project_id", r."right" from jsonb_populate_recordset(null::"share", f) r order by r."kind", r."object_id", r."project_id";
  end if;
  end if;
  if fd ?| array['network', 'subnet', 'security_group', 'vm', 'volume', 'snapshot'] or fc ?| array['network', 'subnet', 'security_group', 'vm', 'volume', 'snapshot'] or fi ?| array['network', 'subnet', 'security_group', 'vm', 'volume', 'snapshot'] then
  if fd ? 'network' then
    delete from "network" t using jsonb_array_elements(fd->'network') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'network' then f := fc->'network';
    update "network" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'network', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "network" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'network' then f := fi->'network';
    insert into "network" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at" from jsonb_populate_recordset(null::"network", f) r order by r."id";
  end if;
  if fd ? 'subnet' then
    delete from "subnet" t using jsonb_array_elements(fd->'subnet') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'subnet' then f := fc->'subnet';
    update "subnet" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "network_id", "cidr", "gateway") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."network_id", r."cidr", r."gateway" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'subnet', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "subnet" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'subnet' then f := fi->'subnet';
    insert into "subnet" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "network_id", "cidr", "gateway")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."network_id", r."cidr", r."gateway" from jsonb_populate_recordset(null::"subnet", f) r order by r."id";
  end if;
  if fd ? 'security_group' then
    delete from "security_group" t using jsonb_array_elements(fd->'security_group') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'security_group' then f := fc->'security_group';
    update "security_group" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "remote_ids") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."remote_ids" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'security_group', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "security_group" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'security_group' then f := fi->'security_group';
    insert into "security_group" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "remote_ids")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", coalesce(r."remote_ids", '{}') from jsonb_populate_recordset(null::"security_group", f) r order by r."id";
  end if;
  if fd ? 'vm' then
    delete from "vm" t using jsonb_array_elements(fd->'vm') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'vm' then f := fc->'vm';
    update "vm" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "node_id", "epoch", "flavor_id", "image_id", "user_data_secret", "media_image_id") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."node_id", r."epoch", r."flavor_id", r."image_id", r."user_data_secret", r."media_image_id" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'vm', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "vm" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'vm' then f := fi->'vm';
    insert into "vm" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "node_id", "epoch", "flavor_id", "image_id", "user_data_secret", "media_image_id")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."node_id", r."epoch", r."flavor_id", r."image_id", r."user_data_secret", r."media_image_id" from jsonb_populate_recordset(null::"vm", f) r order by r."id";
  end if;
  if fd ? 'volume' then
    delete from "volume" t using jsonb_array_elements(fd->'volume') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'volume' then f := fc->'volume';
    update "volume" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "node_id", "image_id", "source_id") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."node_id", r."image_id", r."source_id" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'volume', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "volume" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'volume' then f := fi->'volume';
    insert into "volume" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "node_id", "image_id", "source_id")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."node_id", r."image_id", r."source_id" from jsonb_populate_recordset(null::"volume", f) r order by r."id";
  end if;
  if fd ? 'snapshot' then
    delete from "snapshot" t using jsonb_array_elements(fd->'snapshot') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'snapshot' then f := fc->'snapshot';
    update "snapshot" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "volume_id", "node_id") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."volume_id", r."node_id" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'snapshot', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "snapshot" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'snapshot' then f := fi->'snapshot';
    insert into "snapshot" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "volume_id", "node_id")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."volume_id", r."node_id" from jsonb_populate_recordset(null::"snapshot", f) r order by r."id";
  end if;
  end if;
  if fd ?| array['port', 'address', 'attachment', 'operation', 'drift', 'allocation'] or fc ?| array['port', 'address', 'attachment', 'operation', 'drift', 'allocation'] or fi ?| array['port', 'address', 'attachment', 'operation', 'drift', 'allocation'] then
  if fd ? 'port' then
    delete from "port" t using jsonb_array_elements(fd->'port') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'port' then f := fc->'port';
    update "port" t set ("project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "network_id", "vm_id", "node_id", "epoch", "mac", "group_ids") = (select r."project_id", r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."network_id", r."vm_id", r."node_id", r."epoch", r."mac", r."group_ids" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'port', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "port" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'port' then f := fi->'port';
    insert into "port" ("id", "project_id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "network_id", "vm_id", "node_id", "epoch", "mac", "group_ids")
    select r."id", r."project_id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."network_id", r."vm_id", r."node_id", r."epoch", r."mac", coalesce(r."group_ids", '{}') from jsonb_populate_recordset(null::"port", f) r order by r."id";
  end if;
  if fd ? 'address' then
    delete from "address" t using jsonb_array_elements(fd->'address') x where x ? 'network_id' and t."network_id" = (x->>'network_id')::UUID and t."address" = (x->>'address')::INET;
  end if;
  if fc ? 'address' then f := fc->'address';
    update "address" t set ("subnet_id", "port_id", "origin") = (select r."subnet_id", r."port_id", r."origin" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'network_id' and t."network_id" = (x->>'network_id')::UUID and t."address" = (x->>'address')::INET;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'address', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "address" t where x ? 'network_id' and t."network_id" = (x->>'network_id')::UUID and t."address" = (x->>'address')::INET))::text;
    end if;
  end if;
  if fi ? 'address' then f := fi->'address';
    insert into "address" ("network_id", "address", "subnet_id", "port_id", "origin")
    select r."network_id", r."address", r."subnet_id", r."port_id", r."origin" from jsonb_populate_recordset(null::"address", f) r order by r."network_id", r."address";
  end if;
  if fd ? 'attachment' then
    delete from "attachment" t using jsonb_array_elements(fd->'attachment') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'attachment' then f := fc->'attachment';
    update "attachment" t set ("project_id", "volume_id", "vm_id", "node_id", "epoch", "index", "state", "migration_id", "proof", "operation_id") = (select r."project_id", r."volume_id", r."vm_id", r."node_id", r."epoch", r."index", r."state", r."migration_id", r."proof", r."operation_id" from jsonb_populate_record(t, x) r), version = t.version + 1
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'attachment', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "attachment" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'attachment' then f := fi->'attachment';
    insert into "attachment" ("id", "project_id", "volume_id", "vm_id", "node_id", "epoch", "index", "state", "migration_id", "proof", "version", "operation_id")
    select r."id", r."project_id", r."volume_id", r."vm_id", r."node_id", r."epoch", r."index", r."state", r."migration_id", r."proof", coalesce(r."version", '1'), r."operation_id" from jsonb_populate_recordset(null::"attachment", f) r order by r."id";
  end if;
  if fd ? 'operation' then
    delete from "operation" t using jsonb_array_elements(fd->'operation') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'operation' then f := fc->'operation';
    update "operation" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "project_id", "resource_kind", "resource_id", "node_id", "deadline_at", "ended_at") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."project_id", r."resource_kind", r."resource_id", r."node_id", r."deadline_at", r."ended_at" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'operation', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "operation" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'operation' then f := fi->'operation';
    insert into "operation" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "project_id", "resource_kind", "resource_id", "node_id", "deadline_at", "ended_at")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."project_id", r."resource_kind", r."resource_id", r."node_id", r."deadline_at", r."ended_at" from jsonb_populate_recordset(null::"operation", f) r order by r."id";
  end if;
  if fd ? 'drift' then
    delete from "drift" t using jsonb_array_elements(fd->'drift') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'drift' then f := fc->'drift';
    update "drift" t set ("name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "removed_at", "node_id", "vm_id", "thing_kind", "cause") = (select r."name", r."labels", r."spec", r."spec_schema", r."generation", r."status", r."status_schema", r."observed_generation", r."state", r."removed_at", r."node_id", r."vm_id", r."thing_kind", r."cause" from jsonb_populate_record(t, x) r), version = t.version + 1, updated_at = now()
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'drift', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "drift" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'drift' then f := fi->'drift';
    insert into "drift" ("id", "name", "labels", "spec", "spec_schema", "generation", "status", "status_schema", "observed_generation", "state", "version", "removed_at", "node_id", "vm_id", "thing_kind", "cause")
    select r."id", r."name", coalesce(r."labels", '{}'), r."spec", coalesce(r."spec_schema", '1'), coalesce(r."generation", '1'), r."status", coalesce(r."status_schema", '1'), coalesce(r."observed_generation", '0'), r."state", coalesce(r."version", '1'), r."removed_at", r."node_id", r."vm_id", r."thing_kind", r."cause" from jsonb_populate_recordset(null::"drift", f) r order by r."id";
  end if;
  if fd ? 'allocation' then
    delete from "allocation" t using jsonb_array_elements(fd->'allocation') x where x ? 'holder_id' and t."holder_id" = (x->>'holder_id')::UUID and t."class" = (x->>'class')::TEXT and t."node_id" = (x->>'node_id')::UUID;
  end if;
  if fc ? 'allocation' then f := fc->'allocation';
    update "allocation" t set ("amount") = (select r."amount" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'holder_id' and t."holder_id" = (x->>'holder_id')::UUID and t."class" = (x->>'class')::TEXT and t."node_id" = (x->>'node_id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'allocation', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "allocation" t where x ? 'holder_id' and t."holder_id" = (x->>'holder_id')::UUID and t."class" = (x->>'class')::TEXT and t."node_id" = (x->>'node_id')::UUID))::text;
    end if;
  end if;
  if fi ? 'allocation' then f := fi->'allocation';
    insert into "allocation" ("holder_id", "class", "node_id", "amount")
    select r."holder_id", r."class", r."node_id", r."amount" from jsonb_populate_recordset(null::"allocation", f) r order by r."holder_id", r."class", r."node_id";
  end if;
  end if;
  if fd ?| array['decision', 'secret', 'credential', 'idempotency', 'call', 'plan'] or fc ?| array['decision', 'secret', 'credential', 'idempotency', 'call', 'plan'] or fi ?| array['decision', 'secret', 'credential', 'idempotency', 'call', 'plan'] then
  if fd ? 'decision' then
    delete from "decision" t using jsonb_array_elements(fd->'decision') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'decision' then f := fc->'decision';
    update "decision" t set ("vm_id", "project_id", "node_id", "answer") = (select r."vm_id", r."project_id", r."node_id", r."answer" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'decision', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "decision" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'decision' then f := fi->'decision';
    insert into "decision" ("id", "vm_id", "project_id", "node_id", "answer")
    select r."id", r."vm_id", r."project_id", r."node_id", r."answer" from jsonb_populate_recordset(null::"decision", f) r order by r."id";
  end if;
  if fd ? 'secret' then
    delete from "secret" t using jsonb_array_elements(fd->'secret') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'secret' then f := fc->'secret';
    update "secret" t set ("nonce", "sealed") = (select r."nonce", r."sealed" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'secret', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "secret" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'secret' then f := fi->'secret';
    insert into "secret" ("id", "nonce", "sealed")
    select r."id", r."nonce", r."sealed" from jsonb_populate_recordset(null::"secret", f) r order by r."id";
  end if;
  if fd ? 'credential' then
    delete from "credential" t using jsonb_array_elements(fd->'credential') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'credential' then f := fc->'credential';
    update "credential" t set ("sha256") = (select r."sha256" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'credential', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "credential" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'credential' then f := fi->'credential';
    insert into "credential" ("id", "sha256")
    select r."id", r."sha256" from jsonb_populate_recordset(null::"credential", f) r order by r."id";
  end if;
  if fd ? 'idempotency' then
    delete from "idempotency" t using jsonb_array_elements(fd->'idempotency') x where x ? 'principal' and t."principal" = (x->>'principal')::TEXT and t."key" = (x->>'key')::TEXT;
  end if;
  if fc ? 'idempotency' then f := fc->'idempotency';
    update "idempotency" t set ("request_sha256", "status", "answer") = (select r."request_sha256", r."status", r."answer" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'principal' and t."principal" = (x->>'principal')::TEXT and t."key" = (x->>'key')::TEXT;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'idempotency', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "idempotency" t where x ? 'principal' and t."principal" = (x->>'principal')::TEXT and t."key" = (x->>'key')::TEXT))::text;
    end if;
  end if;
  if fi ? 'idempotency' then f := fi->'idempotency';
    insert into "idempotency" ("principal", "key", "request_sha256", "status", "answer")
    select r."principal", r."key", r."request_sha256", r."status", r."answer" from jsonb_populate_recordset(null::"idempotency", f) r order by r."principal", r."key";
  end if;
  if fd ? 'call' then
    delete from "call" t using jsonb_array_elements(fd->'call') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'call' then f := fc->'call';
    update "call" t set ("at", "actor", "project_id", "request", "action", "outcome", "kind", "object_id", "detail") = (select r."at", r."actor", r."project_id", r."request", r."action", r."outcome", r."kind", r."object_id", r."detail" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'call', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "call" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'call' then f := fi->'call';
    insert into "call" ("id", "at", "actor", "project_id", "request", "action", "outcome", "kind", "object_id", "detail")
    select r."id", coalesce(r."at", now()), r."actor", r."project_id", r."request", r."action", r."outcome", r."kind", r."object_id", r."detail" from jsonb_populate_recordset(null::"call", f) r order by r."id";
  end if;
  if fd ? 'plan' then
    delete from "plan" t using jsonb_array_elements(fd->'plan') x where x ? 'id' and t."id" = (x->>'id')::UUID;
  end if;
  if fc ? 'plan' then f := fc->'plan';
    update "plan" t set ("principal", "draft", "shown", "expires_at") = (select r."principal", r."draft", r."shown", r."expires_at" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'id' and t."id" = (x->>'id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'plan', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "plan" t where x ? 'id' and t."id" = (x->>'id')::UUID))::text;
    end if;
  end if;
  if fi ? 'plan' then f := fi->'plan';
    insert into "plan" ("id", "principal", "draft", "shown", "expires_at")
    select r."id", r."principal", r."draft", r."shown", r."expires_at" from jsonb_populate_recordset(null::"plan", f) r order by r."id";
  end if;
  end if;
  if fd ?| array['node_seen', 'node_revision', 'inventory', 'quota'] or fc ?| array['node_seen', 'node_revision', 'inventory', 'quota'] or fi ?| array['node_seen', 'node_revision', 'inventory', 'quota'] then
  if fd ? 'node_seen' then
    delete from "node_seen" t using jsonb_array_elements(fd->'node_seen') x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID;
  end if;
  if fc ? 'node_seen' then f := fc->'node_seen';
    update "node_seen" t set ("session", "seen_at", "revision") = (select r."session", r."seen_at", r."revision" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'node_seen', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "node_seen" t where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID))::text;
    end if;
  end if;
  if fi ? 'node_seen' then f := fi->'node_seen';
    insert into "node_seen" ("node_id", "session", "seen_at", "revision")
    select r."node_id", r."session", r."seen_at", coalesce(r."revision", '0') from jsonb_populate_recordset(null::"node_seen", f) r order by r."node_id";
  end if;
  if fd ? 'node_revision' then
    delete from "node_revision" t using jsonb_array_elements(fd->'node_revision') x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID;
  end if;
  if fc ? 'node_revision' then f := fc->'node_revision';
    update "node_revision" t set ("revision") = (select r."revision" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'node_revision', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "node_revision" t where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID))::text;
    end if;
  end if;
  if fi ? 'node_revision' then f := fi->'node_revision';
    insert into "node_revision" ("node_id", "revision")
    select r."node_id", r."revision" from jsonb_populate_recordset(null::"node_revision", f) r order by r."node_id";
  end if;
  if fd ? 'inventory' then
    delete from "inventory" t using jsonb_array_elements(fd->'inventory') x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID and t."class" = (x->>'class')::TEXT;
  end if;
  if fc ? 'inventory' then f := fc->'inventory';
    update "inventory" t set ("total", "reserved", "used") = (select r."total", r."reserved", r."used" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID and t."class" = (x->>'class')::TEXT;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'inventory', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "inventory" t where x ? 'node_id' and t."node_id" = (x->>'node_id')::UUID and t."class" = (x->>'class')::TEXT))::text;
    end if;
  end if;
  if fi ? 'inventory' then f := fi->'inventory';
    insert into "inventory" ("node_id", "class", "total", "reserved", "used")
    select r."node_id", r."class", r."total", r."reserved", coalesce(r."used", '0') from jsonb_populate_recordset(null::"inventory", f) r order by r."node_id", r."class";
  end if;
  if fd ? 'quota' then
    delete from "quota" t using jsonb_array_elements(fd->'quota') x where x ? 'project_id' and t."project_id" = (x->>'project_id')::UUID and t."class" = (x->>'class')::TEXT;
  end if;
  if fc ? 'quota' then f := fc->'quota';
    update "quota" t set ("amount", "used") = (select r."amount", r."used" from jsonb_populate_record(t, x) r)
      from jsonb_array_elements(f) x where x ? 'project_id' and t."project_id" = (x->>'project_id')::UUID and t."class" = (x->>'class')::TEXT;
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'stale', detail = (select jsonb_agg(
        jsonb_build_object('kind', 'quota', 'id', x->'id', 'was', true, 'is_now', 'gone'))
        from jsonb_array_elements(f) x where not exists (select from "quota" t where x ? 'project_id' and t."project_id" = (x->>'project_id')::UUID and t."class" = (x->>'class')::TEXT))::text;
    end if;
  end if;
  if fi ? 'quota' then f := fi->'quota';
    insert into "quota" ("project_id", "class", "amount", "used")
    select r."project_id", r."class", r."amount", coalesce(r."used", '0') from jsonb_populate_recordset(null::"quota", f) r order by r."project_id", r."class";
  end if;
  end if;

  if d ? 'capacity' then f := d->'capacity';
    update inventory t set used = t.used + (x->>'a')::bigint from jsonb_array_elements(f) x where x ? 'n' and t.node_id = (x->>'n')::uuid and t.class = x->>'c' and ((x->>'a')::bigint <= 0 or t.used + (x->>'a')::bigint <= t.total - t.reserved);
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'capacity', detail = (select jsonb_agg(jsonb_build_object(
          'kind', 'inventory', 'id', x->'n', 'class', x->'c') || case when t.node_id is null then jsonb_build_object('was', x->'a', 'is_now', 'gone') else jsonb_build_object('was', x->'a', 'is_now', t.total - t.reserved - t.used) end)
        from jsonb_array_elements(f) x left join inventory t on t.node_id = (x->>'n')::uuid and t.class = x->>'c' where t.xmin is distinct from pg_current_xact_id()::xid)::text;
    end if;
  end if;
  w := coalesce(d->'wake', '[]');
  -- groups: whoever changes members or rules of one waits here for the other, so that the later one sees both
  if d ? 'groups' then
    f := d->'groups';
    perform from security_group s where s.id = any(array(select x::uuid from jsonb_array_elements_text(f->'members') x) || array(select x::uuid from jsonb_array_elements_text(f->'rules') x)
        || array(select unnest(r.remote_ids) from security_group r where r.id = any(array(select x::uuid from jsonb_array_elements_text(f->'rules') x))))
      order by s.id for no key update;
    select w || coalesce(jsonb_agg(distinct jsonb_build_object('n', p.node_id, 'vm', s.id, 'k', 'security_group')), '[]') into w
      from security_group s, lateral (select p.node_id from port p where p.group_ids @> array[s.id] and p.removed_at is null offset 0) p
     where s.removed_at is null and (s.id = any(array(select x::uuid from jsonb_array_elements_text(f->'rules') x)) or s.remote_ids && array(select x::uuid from jsonb_array_elements_text(f->'members') x));
  end if;
  if w <> '[]' then
    with r as (
      update node_revision t set revision = t.revision + 1
        from (select distinct (x->>'n')::uuid n from jsonb_array_elements(w) x where x ? 'n' order by 1) x where t.node_id = x.n
      returning t.node_id, t.revision), i as (
      insert into wanted (node_id, vm_id, kind, revision)
        select distinct r.node_id, (x->>'vm')::uuid, coalesce(x->>'k', 'vm'), r.revision
          from r join jsonb_array_elements(w) x on (x->>'n')::uuid = r.node_id order by 1, 2
        on conflict (node_id, vm_id) do update set revision = excluded.revision)
    select coalesce(jsonb_object_agg(r.node_id, r.revision), '{}') into out from r;
  end if;
  -- ranges: whoever brings a network to a node has waited above for whoever did so before, and sees it here
  if d ? 'ranges' then
    select coalesce(jsonb_agg(distinct jsonb_build_object('kind', 'network', 'id', r.net, 'was', 'alone in its range', 'is_now', 'not alone')), '[]')
      into bad from (select (j->>'n')::uuid n, (j->>'net')::uuid net from jsonb_array_elements(d->'ranges') j) r
      join subnet s on s.network_id = r.net and s.removed_at is null
      join subnet o on o.cidr::inet && s.cidr::inet and o.network_id <> r.net and o.removed_at is null
     where (select true from port p where p.network_id = o.network_id and p.node_id = r.n and p.removed_at is null limit 1);
    if bad <> '[]' then
      raise exception using errcode = 'NB409', message = 'ranges', detail = bad::text;
    end if;
  end if;
  if d ? 'quota' then f := d->'quota';
    update quota t set used = t.used + (x->>'a')::bigint from jsonb_array_elements(f) x where x ? 'p' and t.project_id = (x->>'p')::uuid and t.class = x->>'c' and ((x->>'a')::bigint <= 0 or t.used + (x->>'a')::bigint <= t.amount);
    get diagnostics n = row_count;
    if n < jsonb_array_length(f) then
      raise exception using errcode = 'NB409', message = 'quota', detail = (select jsonb_agg(jsonb_build_object(
          'kind', 'quota', 'id', x->'p', 'class', x->'c') || case when t.project_id is null then jsonb_build_object('asked', x->'a', 'limit', 0, 'used', 0) else jsonb_build_object('asked', x->'a', 'limit', t.amount, 'used', t.used) end)
        from jsonb_array_elements(f) x left join quota t on t.project_id = (x->>'p')::uuid and t.class = x->>'c' where t.xmin is distinct from pg_current_xact_id()::xid)::text;
    end if;
  end if;
  return out || jsonb_build_object('now', now());
end $commit$;


drop schema if exists past cascade;
create schema past;

create view past."node_seen" as select node_id, session, now() as seen_at, revision from public."node_seen";

create view past."allocation" as select null::uuid as holder_id, null::text as "class", null::uuid as node_id, null::bigint as amount where false;

create view past."project" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at"
  from public."project" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'project' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."project", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."user" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at"
  from public."user" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'user' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."user", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."operator" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at"
  from public."operator" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'operator' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."operator", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."member" as
select o.id as "project_id", r."user_id", r."role"
  from public."project" o
 cross join lateral (
     select distinct on (c.content->>'user_id') c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = 'member' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.content->>'user_id', c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."member", c.content) r
 where c.action <> 'delete';

create view past."token" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."account_id", t."project_id", r."plane"
  from public."token" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'token' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."token", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."keypair" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."user_id"
  from public."keypair" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'keypair' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."keypair", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."node" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at"
  from public."node" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'node' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."node", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."join_token" as
select t."id", r."spec", r."expires_at", r."used_at", r."node_id", r."created_at"
  from public."join_token" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'join_token' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."join_token", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz;

create view past."virt_method" as
select o.id as "node_id", r."name", r."capabilities"
  from public."node" o
 cross join lateral (
     select distinct on (c.content->>'name') c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = 'virt_method' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.content->>'name', c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."virt_method", c.content) r
 where c.action <> 'delete';

create view past."flavor" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at"
  from public."flavor" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'flavor' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."flavor", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."image" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."project_id", r."sha256", r."fetch_secret"
  from public."image" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'image' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."image", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."share" as
select r."kind", r."object_id", o.id as "project_id", r."right"
  from public."project" o
 cross join lateral (
     select distinct on (c.content->>'kind', c.content->>'object_id') c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = 'share' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.content->>'kind', c.content->>'object_id', c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."share", c.content) r
 where c.action <> 'delete';

create view past."network" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at"
  from public."network" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'network' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."network", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."subnet" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."network_id", r."cidr", r."gateway"
  from public."subnet" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'subnet' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."subnet", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."security_group" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", coalesce(r."remote_ids", '{}') as "remote_ids"
  from public."security_group" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'security_group' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."security_group", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."vm" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", r."node_id", r."epoch", r."flavor_id", r."image_id", r."user_data_secret", r."media_image_id"
  from public."vm" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'vm' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."vm", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."volume" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", r."node_id", r."image_id", r."source_id"
  from public."volume" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'volume' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."volume", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."snapshot" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."volume_id", r."node_id"
  from public."snapshot" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'snapshot' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."snapshot", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."port" as
select t."id", t."project_id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."network_id", t."vm_id", r."node_id", r."epoch", r."mac", coalesce(r."group_ids", '{}') as "group_ids"
  from public."port" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'port' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."port", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."address" as
select r."network_id", r."address", r."subnet_id", o.id as "port_id", r."origin"
  from public."port" o
 cross join lateral (
     select distinct on (c.content->>'network_id', c.content->>'address') c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = 'address' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.content->>'network_id', c.content->>'address', c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."address", c.content) r
 where c.action <> 'delete';

create view past."attachment" as
select t."id", t."project_id", t."volume_id", t."vm_id", r."node_id", r."epoch", r."index", r."state", r."migration_id", r."proof", coalesce(r."version", '1') as "version", r."operation_id"
  from public."attachment" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'attachment' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."attachment", c.content) r
 where c.action <> 'delete';

create view past."operation" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", t."project_id", r."resource_kind", t."resource_id", r."node_id", r."deadline_at", r."ended_at"
  from public."operation" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'operation' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."operation", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."drift" as
select t."id", r."name", coalesce(r."labels", '{}') as "labels", r."spec", coalesce(r."spec_schema", '1') as "spec_schema", coalesce(r."generation", '1') as "generation", r."status", coalesce(r."status_schema", '1') as "status_schema", coalesce(r."observed_generation", '0') as "observed_generation", r."state", coalesce(r."version", '1') as "version", r."created_at", r."updated_at", r."removed_at", r."node_id", t."vm_id", r."thing_kind", r."cause"
  from public."drift" t
 cross join lateral (
     select c.content, c.action from public.change c
      where c.object_id = t.id and c.kind = 'drift' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.seq desc limit 1) c
 cross join lateral jsonb_populate_record(null::public."drift", c.content) r
 where c.action <> 'delete' and t.created_at <= current_setting('nubila.as_of')::timestamptz and (current_setting('nubila.as_of')::timestamptz = 'infinity' or t.removed_at is null or t.removed_at > current_setting('nubila.as_of')::timestamptz - interval '1 minute');

create view past."inventory" as
select o.id as "node_id", r."class", r."total", r."reserved", r."used"
  from public."node" o
 cross join lateral (
     select distinct on (c.content->>'class') c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = 'inventory' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.content->>'class', c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."inventory", c.content) r
 where c.action <> 'delete';

create view past."quota" as
select o.id as "project_id", r."class", r."amount", r."used"
  from public."project" o
 cross join lateral (
     select distinct on (c.content->>'class') c.content, c.action from public.change c
      where c.object_id = o.id and c.kind = 'quota' and c.at <= current_setting('nubila.as_of')::timestamptz
        and (c.action = 'baseline' or (c.fabric_epoch, c.xid, c.seq) <= (current_setting('nubila.as_of_epoch')::bigint,
             current_setting('nubila.as_of_xid')::xid8, current_setting('nubila.as_of_seq')::bigint))
      order by c.content->>'class', c.seq desc) c
 cross join lateral jsonb_populate_record(null::public."quota", c.content) r
 where c.action <> 'delete';
