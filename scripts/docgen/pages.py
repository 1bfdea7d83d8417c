"""Which files are made, and by what. Each maker gives the whole text of its file."""

from collections.abc import Callable
from functools import partial

from docgen.circuit_breaker import circuit_breaker
from docgen.circuit_picture import circuit_picture
from docgen.cli import cli
from docgen.configuration import configuration
from docgen.helm_values import VALUES_SCHEMA, helm_values, values_schema
from docgen.indexes import index
from docgen.navigation import CONFIG, navigation
from docgen.page import NOTE
from docgen.redis_keys import redis_keys
from gateway.telemetry.catalogue import metrics_reference
from gateway.telemetry.log_fields import access_log_reference


def metrics() -> str:
    return f"{NOTE}<!-- Source: gateway/telemetry/catalogue.py -->\n\n{metrics_reference()}"


def access_log() -> str:
    return f"{NOTE}<!-- Source: gateway/telemetry/log_fields.py -->\n\n{access_log_reference()}"


# In this order: the indexes and the nav read the titles of pages made before them.
PAGES: dict[str, Callable[[], str]] = {
    "docs/configuration.md": configuration,
    "docs/metrics.md": metrics,
    "docs/access-log.md": access_log,
    "docs/cli.md": cli,
    "docs/circuit-breaker.md": circuit_breaker,
    "docs/circuit-breaker.svg": circuit_picture,
    "docs/redis-keys.md": redis_keys,
    VALUES_SCHEMA: values_schema,
    "docs/helm-values.md": helm_values,
    "docs/how-to/README.md": partial(index, "docs/how-to", "How-to guides"),
    "docs/adr/README.md": partial(index, "docs/adr", "Decisions"),
    CONFIG: navigation,
}
