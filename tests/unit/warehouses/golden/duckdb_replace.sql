BEGIN TRANSACTION;
CREATE SCHEMA IF NOT EXISTS "staging";
CREATE TABLE IF NOT EXISTS "staging"."_d1_loads" ("loaded_at" TIMESTAMP, "manifest" VARCHAR, "database_id" VARCHAR, "database_name" VARCHAR, "bookmark" VARCHAR, "dump_sha256" VARCHAR, "table_name" VARCHAR, "rows" BIGINT, "mode" VARCHAR, "source_name" VARCHAR, "sequence" BIGINT);
DELETE FROM "staging"."users";
INSERT INTO "staging"."users" ("a int64", "a float64", "a string", "a binary", "a timestamp", "a date32", "select") SELECT "a int64", "a float64", "a string", "a binary", "a timestamp", "a date32", "select" FROM read_parquet(['s3://bucket/d1/shop''s/t0/part-00000.parquet', 's3://bucket/d1/shop''s/t0/part-00001.parquet'], hive_partitioning = false, union_by_name = false);
DELETE FROM "staging"."orders-2026";
INSERT INTO "staging"."orders-2026" ("id") SELECT "id" FROM read_parquet(['s3://bucket/d1/shop''s/t1/part-00000.parquet', 's3://bucket/d1/shop''s/t1/part-00001.parquet'], hive_partitioning = false, union_by_name = false);
INSERT INTO "staging"."_d1_loads" ("loaded_at", "manifest", "database_id", "database_name", "bookmark", "dump_sha256", "table_name", "rows", "mode", "source_name", "sequence") VALUES (make_timestamp(epoch_us(now())), 's3://bucket/d1/shop''s/_manifest.json', 'uuid', 'it''s', '00000-1', 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', 'users', 3, 'replace', 'users', 1), (make_timestamp(epoch_us(now())), 's3://bucket/d1/shop''s/_manifest.json', 'uuid', 'it''s', '00000-1', 'cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd', 'orders-2026', 3, 'replace', 'orders-2026', 1);
COMMIT;
