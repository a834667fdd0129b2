"""The D1 REST API over httpx: a sans-IO core and thin clients. Does not import Airflow."""
