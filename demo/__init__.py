"""The demo: D1 (the emulator or your own) → S3 → a warehouse, with an Airflow DAG on one machine."""
