"""Airflow tasks that export D1 databases."""
