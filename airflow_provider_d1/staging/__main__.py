"""Entry point of ``python -m airflow_provider_d1.staging``."""

from __future__ import annotations

import sys

from airflow_provider_d1.staging.cli import main

sys.exit(main())
