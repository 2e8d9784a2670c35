"""The only SQL: tables, migrations, queries per noun, commit, notify, history, vault. PostgreSQL 15 or newer, no extensions."""
