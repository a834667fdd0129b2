"""Tables into files and a manifest, through a sink. Knows no Airflow."""
