"""Tables into files and a manifest, through a storage. Knows no Airflow."""
