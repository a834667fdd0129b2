"""The Airflow hook for D1, and how it reads a connection."""
