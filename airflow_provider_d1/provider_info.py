"""The provider's metadata for Airflow: integration, connection type and form, operators, triggers, transfers."""

from __future__ import annotations

from typing import Any

INTEGRATION = "Cloudflare D1"
S3 = "Amazon Simple Storage Service (S3)"
#: what staged files are loaded into, by the names under which Airflow's own providers list them
WAREHOUSES = (
    "PostgreSQL",
    "Amazon Redshift",
    "Snowflake",
    "Google BigQuery",
    "Databricks",
    "MySQL",
    "DuckDB",
    "ClickHouse",
)


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata, as the entry point ``apache_airflow_provider`` returns it."""
    return {
        "package-name": "airflow-provider-d1",
        "name": INTEGRATION,
        "description": "Exports of `Cloudflare D1 <https://developers.cloudflare.com/d1/>`__ into warehouse staging.",
        "integrations": [
            {
                "integration-name": INTEGRATION,
                "external-doc-url": "https://developers.cloudflare.com/d1/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": INTEGRATION, "python-modules": ["airflow_provider_d1.hooks.d1"]}],
        "operators": [
            {
                "integration-name": INTEGRATION,
                "python-modules": [
                    "airflow_provider_d1.operators.d1",
                    "airflow_provider_d1.operators.d1_compare",
                    "airflow_provider_d1.operators.d1_import",
                    "airflow_provider_d1.operators.d1_restore",
                ],
            }
        ],
        "sensors": [{"integration-name": INTEGRATION, "python-modules": ["airflow_provider_d1.sensors.d1_change"]}],
        "triggers": [
            {
                "integration-name": INTEGRATION,
                "python-modules": [
                    "airflow_provider_d1.triggers.d1",
                    "airflow_provider_d1.triggers.change_trigger",
                    "airflow_provider_d1.triggers.import_trigger",
                ],
            }
        ],
        "transfers": [
            {
                "source-integration-name": INTEGRATION,
                "target-integration-name": S3,
                "python-module": "airflow_provider_d1.transfers.d1_to_s3",
            },
            {
                "source-integration-name": INTEGRATION,
                "target-integration-name": "Common IO",
                "python-module": "airflow_provider_d1.transfers.d1_to_object_storage",
            },
            {
                "source-integration-name": S3,
                "target-integration-name": INTEGRATION,
                "python-module": "airflow_provider_d1.transfers.s3_to_d1",
            },
            *(
                {
                    "source-integration-name": S3,
                    "target-integration-name": warehouse,
                    "python-module": "airflow_provider_d1.transfers.staging_to_warehouse",
                }
                for warehouse in WAREHOUSES
            ),
        ],
        "asset-uris": [
            {
                "schemes": ["d1"],
                "handler": "airflow_provider_d1.assets.d1.sanitize_uri",
                "factory": "airflow_provider_d1.assets.d1.create_asset",
                "to_openlineage_converter": "airflow_provider_d1.assets.d1.convert_asset_to_openlineage",
            }
        ],
        "extra-links": [
            "airflow_provider_d1.links.d1.D1DatabaseLink",
            "airflow_provider_d1.links.d1.D1StagedRunLink",
            "airflow_provider_d1.links.d1.D1WarehouseLink",
        ],
        "connection-types": [
            {
                "connection-type": "d1",
                "hook-class-name": "airflow_provider_d1.hooks.d1.D1Hook",
                "hook-name": INTEGRATION,
                # the fields in the form's order; Airflow collapses those that are not standard fields
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    "relabeling": {
                        "host": "API base URL (optional)",
                        "login": "Account ID (required)",
                        "password": "API token (required)",
                        "port": "Port (443)",
                        "schema": "Default database",
                    },
                    "placeholders": {
                        "host": "https://api.cloudflare.com/client/v4",
                        "login": "32 hexadecimal digits, as in dash.cloudflare.com/<account ID>",
                        "password": "an API token with the permission D1: Edit",
                        "port": "443; the Test button of Airflow 3.3 needs a port",
                        "schema": "name or UUID; the operators' parameter database overrides it",
                    },
                },
                "conn-fields": {
                    "account_id": {
                        "label": "Account ID, if not given above",
                        "description": "With a Global API Key the field above holds the e-mail address instead.",
                        "schema": {"type": ["string", "null"]},
                    },
                    "timeout": {
                        "label": "Timeout (seconds)",
                        "description": "How long one API call may take.",
                        "schema": {"type": ["number", "null"], "minimum": 1, "default": 30},
                    },
                    "requests_per_5_minutes": {
                        "label": "API calls in 5 minutes",
                        "description": "How many of the token's 1,200 calls in 5 minutes each process may use.",
                        "schema": {"type": ["integer", "null"], "minimum": 1, "default": 1000},
                    },
                },
            }
        ],
    }
