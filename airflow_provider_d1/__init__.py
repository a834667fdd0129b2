"""Cloudflare D1 for Apache Airflow: exports that hold no worker slot, staged as typed files for a warehouse."""

from __future__ import annotations

__version__ = "0.1.0"
