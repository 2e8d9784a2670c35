drop index vm_node_idx, vm_media_image_idx, vm_image_idx, port_group_idx, security_group_remote_idx;
CREATE INDEX security_group_remote_idx ON security_group USING gin (remote_ids) WHERE removed_at is null and remote_ids is not null;
CREATE INDEX subnet_range_idx ON subnet USING gist ((cidr::inet) inet_ops) WHERE removed_at is null and cidr::inet is not null;
CREATE INDEX vm_image_idx ON vm USING btree (image_id) WHERE removed_at is null and image_id is not null;
CREATE INDEX vm_media_image_idx ON vm USING btree (media_image_id) WHERE removed_at is null and media_image_id is not null;
CREATE INDEX vm_node_idx ON vm USING btree (node_id) WHERE removed_at is null and node_id is not null;
CREATE INDEX port_group_idx ON port USING gin (group_ids) WHERE removed_at is null and group_ids is not null;
