"""A local D1 API for demos, DAG tests and fault injection."""
