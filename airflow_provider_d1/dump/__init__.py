"""The SQL dump's way into typed Arrow batches. Knows no Airflow, no HTTP, no cloud."""
