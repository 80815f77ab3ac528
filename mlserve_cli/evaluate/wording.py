"""How figures of quality are written: points with two decimals, all else with three digits."""

from __future__ import annotations

from mlserve_cli.package.definition import Metric

_MINUS = "\N{MINUS SIGN}"


def amount(value: float, metric: Metric) -> str:
    """The bare number; a negative one with a true minus sign."""
    return figure(value, metric.unit)


def figure(value: float, unit: str) -> str:
    """The same of a metric of which only the unit is known."""
    text = f"{value:.2f}" if unit == "points" else f"{value:.4g}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("-", _MINUS)


def with_unit(value: float, metric: Metric) -> str:
    """The number and the unit, where the metric has one."""
    return f"{amount(value, metric)} {metric.unit}".rstrip()


def range_of(low: float, high: float, metric: Metric) -> str:
    """The interval: "95 % 96.10 … 98.13"."""
    return f"95 % {amount(low, metric)} … {amount(high, metric)}"
