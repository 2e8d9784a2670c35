alter table node drop constraint node_state_known;
alter table node add constraint node_state_known check (state in ('enrolling', 'running', 'draining', 'maintenance', 'lost', 'retired'));
alter table node add constraint node_loss_is_declared check (state <> 'lost' or coalesce((spec->>'lost')::boolean, false));
alter table node add constraint node_one_way_out check (not coalesce((spec->>'maintenance')::boolean and (spec->>'draining')::boolean, false));
drop function if exists commit_3(jsonb);
