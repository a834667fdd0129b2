"""An Airflow connection becomes clients of the D1 API."""
