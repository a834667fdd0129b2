"""Read SQL dumps as typed Arrow batches. Does not import Airflow or a client of any service."""
