"""Turns dumps into typed files with a manifest. Does not import Airflow."""
