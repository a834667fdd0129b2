"""Airflow sensors for D1 databases."""
