"""A local D1 API for demos, DAG tests and rehearsing a bad day."""
