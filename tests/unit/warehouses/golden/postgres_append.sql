BEGIN;
CREATE SCHEMA IF NOT EXISTS "staging";
CREATE TABLE IF NOT EXISTS "staging"."_d1_loads" ("loaded_at" timestamptz, "manifest" text, "database_id" text, "database_name" text, "bookmark" text, "dump_sha256" text, "table_name" text, "rows" bigint, "mode" text);
CREATE TABLE IF NOT EXISTS "staging"."users" ("a int64" bigint, "a float64" double precision, "a string" text, "a binary" bytea, "a timestamp" timestamp, "a date32" date, "select" bigint);
COPY "staging"."users" ("a int64", "a float64", "a string", "a binary", "a timestamp", "a date32", "select") FROM STDIN WITH (FORMAT binary);
CREATE TABLE IF NOT EXISTS "staging"."orders-2026" ("id" bigint);
COPY "staging"."orders-2026" ("id") FROM STDIN WITH (FORMAT binary);
INSERT INTO "staging"."_d1_loads" ("loaded_at", "manifest", "database_id", "database_name", "bookmark", "dump_sha256", "table_name", "rows", "mode") VALUES (clock_timestamp(), 's3://bucket/d1/shop''s/_manifest.json', 'uuid', 'it''s', '00000-1', 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', 'users', 3, 'append'), (clock_timestamp(), 's3://bucket/d1/shop''s/_manifest.json', 'uuid', 'it''s', '00000-1', 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', 'orders-2026', 3, 'append');
COMMIT;
