"""Airflow tasks that move D1 databases into staging and from there into warehouses."""
