"""The part of an export that runs in Airflow's triggerer."""
