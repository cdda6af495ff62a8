-- Opening the lake in DuckDB, so that a question can read it and do nothing else.
-- sqlfluff:dialect:duckdb

-- name: point_at_lake
-- Where the views of sql/lake find their files.
set variable lake = $1;

-- name: use_utc
-- Instants are shown as they are stored.
set timezone = 'UTC';

-- name: allow_lake
-- The one directory that may be opened once the rest is closed.
set allowed_directories = [getvariable('lake')];

-- name: close_the_rest
-- No other file, no network, no extension.
set enable_external_access = false;

-- name: lock_settings
-- A question cannot open what was closed.
set lock_configuration = true;
