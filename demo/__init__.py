"""The main job on one machine: D1 (emulated, or yours) → S3 → a warehouse, through a real Airflow DAG."""
