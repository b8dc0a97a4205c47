"""Families of metrics from rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def gauge(name: str, documentation: str, labels: Mapping[str, str], rows: Iterable[Any], column: str) -> Metric:
    """A gauge with a value for each row; `labels` says which column each label comes from."""
    family = GaugeMetricFamily(name, documentation, labels=list(labels))
    return _fill(family, labels, rows, column)


def counter(name: str, documentation: str, labels: Mapping[str, str], rows: Iterable[Any], column: str) -> Metric:
    """The same for what never goes back; its name gets _total."""
    family = CounterMetricFamily(name, documentation, labels=list(labels))
    return _fill(family, labels, rows, column)


def _fill(family: Any, labels: Mapping[str, str], rows: Iterable[Any], column: str) -> Metric:
    for row in rows:
        family.add_metric([str(row[of]) for of in labels.values()], float(row[column]))
    filled: Metric = family
    return filled
