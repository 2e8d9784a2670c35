drop function if exists commit_2(jsonb);
