drop function commit_1(jsonb);
