"""Axes: from values to pixels, linear or logarithmic, with ticks at round values."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

# Beyond this no quantity that is measured lies, and below it sums and squares cannot overflow.
_LIMIT = 1e150
# What lies closer together than this is one value: no tick between would have a readable label.
_RELATIVE_SPAN = 1e-9
# Room between the outermost values and the frame, as a share of the range.
_MARGIN = 0.05
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True, slots=True)
class Tick:
    """A value with its label."""

    value: float
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Values from `low` to `high` lie from pixel `start` to pixel `end`, which may be the smaller.

    low < high; where `log`, both are positive. at: ticks at these values and no others.
    """

    low: float
    high: float
    log: bool = False
    start: float = 0.0
    end: float = 1.0
    at: tuple[float, ...] = ()

    def __call__(self, value: float) -> float:
        """The pixel of a value other than NaN; what lies outside is at the nearer end."""
        if value <= self.low:
            return self.start
        if value >= self.high:
            return self.end
        if self.log:
            low, high, value = math.log10(self.low), math.log10(self.high), math.log10(value)
        else:
            low, high = self.low, self.high
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[Tick]:
        """About `count` round values in the range, never more than twice as many."""
        if self.at:
            inside = sorted({value for value in self.at if self.low <= value <= self.high})
            kept = inside[:: math.ceil(len(inside) / (2 * count))] if inside else []
            return [Tick(value, number(value)) for value in kept]
        if self.log and self.high / self.low >= 10:
            return [Tick(value, number(value)) for value in _decades(self.low, self.high, count)]
        values, step = _steps(self.low, self.high, count)
        return [
            Tick(value, label) for value, label in zip(values, _labels(values, step), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis shows.

    better: which end a reader should look for. include: values that the range must hold, such as
    (0,); where one is outermost the axis ends at it. at: ticks at these values alone.
    """

    title: str
    unit: str = ""
    _: KW_ONLY
    log: bool = False
    better: Literal["low", "high", ""] = ""
    include: tuple[float, ...] = ()
    at: tuple[float, ...] = ()

    @property
    def caption(self) -> str:
        """Title, unit and direction, as they stand beside the axis."""
        unit = f" ({self.unit})" if self.unit else ""
        direction = {"low": ", lower is better", "high": ", higher is better", "": ""}[self.better]
        return f"{self.title}{unit}{direction}"

    def drawable(self, value: float) -> bool:
        """Whether the value has a place: finite, and above zero on a logarithmic axis."""
        return abs(value) <= _LIMIT and (not self.log or value >= 1 / _LIMIT)

    def scale(self, values: Iterable[float], start: float, end: float) -> Scale:
        """A scale that holds every drawable value; without any, 0 to 1 (or 1 to 10)."""
        drawn = [float(value) for value in values if self.drawable(value)]
        ends = [float(value) for value in self.include if self.drawable(value)]
        both = drawn + ends
        if not both:
            both = [1.0, 10.0] if self.log else [0.0, 1.0]
        low, high = min(both), max(both)
        free_low, free_high = low not in ends, high not in ends
        if self.log:
            low, high = _widened_log(low, high, free_low=free_low, free_high=free_high)
        else:
            low, high = _widened(low, high, free_low=free_low, free_high=free_high)
        return Scale(low=low, high=high, log=self.log, start=start, end=end, at=self.at)

    def quantity(self, value: float) -> str:
        """A value with its unit, to four significant digits; NaN is a dash alone."""
        return number(value) if math.isnan(value) else f"{number(value)} {self.unit}".strip()


def number(value: float, digits: int = 4) -> str:
    """A value to so many significant digits: 1,234 · 0.0125 · 3.5×10⁻⁷; NaN is an en dash."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    # Rounding first, so that 9.99999 has the exponent of 10.
    exponent = int(f"{abs(value):.{digits - 1}e}".partition("e")[2])
    if -4 <= exponent < 7:
        written = f"{value:,.{max(0, digits - 1 - exponent)}f}"
        return _minus(_without_zeros(written))
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    return _minus(f"{_without_zeros(mantissa)}×10") + _power(int(power))


def _widened(low: float, high: float, *, free_low: bool, free_high: bool) -> tuple[float, float]:
    size = max(abs(low), abs(high))
    if high - low <= size * _RELATIVE_SPAN or size < 1 / _LIMIT:
        around = size / 10 if size >= 1 / _LIMIT else 1.0
        # One value stands in the middle, but for zero where it is the end that was asked for.
        return (low if low == 0 and not free_low else low - around), high + around
    room = (high - low) * _MARGIN
    return low - room * free_low, high + room * free_high


def _widened_log(
    low: float, high: float, *, free_low: bool, free_high: bool
) -> tuple[float, float]:
    if high / low <= 1 + _RELATIVE_SPAN:
        return low / 2, high * 2
    factor = 10 ** (math.log10(high / low) * _MARGIN)
    return (low / factor if free_low else low), (high * factor if free_high else high)


def _steps(low: float, high: float, count: int) -> tuple[list[float], float]:
    """Multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((times * power for times in (1, 2, 5) if times * power >= rough), 10 * power)
    # A thousandth of a step forgives the rounding of `low / step`; the bounds hold all the same.
    first, last = math.ceil(low / step - 1e-3), math.floor(high / step + 1e-3)
    return [min(max(low, n * step), high) for n in range(first, last + 1)], step


def _decades(low: float, high: float, count: int) -> list[float]:
    """Powers of ten, all or every n-th; between them 2 and 5 while there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    inside = [n for n in range(first, last + 1) if low <= 10.0**n <= high]
    if len(inside) <= count / 2:
        found = (times * 10.0**n for n in range(first, last + 1) for times in (1, 2, 5))
        return [value for value in found if low <= value <= high]
    stride = max(1, round(len(inside) / count))
    return [10.0**n for n in inside if n % stride == 0]


def _labels(values: list[float], step: float) -> list[str]:
    """As many decimals as the step needs, the same power of ten for all."""
    if not values:
        return []
    last_digit = math.floor(math.log10(step) + 1e-9)
    largest = max(abs(value) for value in values)
    exponent = math.floor(math.log10(largest) + 1e-9) if largest else 0
    if -4 < exponent < 7 or exponent - last_digit > 6:
        return [_minus(f"{value:,.{max(0, -last_digit)}f}") for value in _no_negative_zero(values)]
    decimals = max(0, exponent - last_digit)
    return [
        _minus(f"{value / 10.0**exponent:.{decimals}f}×10") + _power(exponent) if value else "0"
        for value in values
    ]


def _no_negative_zero(values: list[float]) -> list[float]:
    return [value + 0.0 for value in values]


def _without_zeros(written: str) -> str:
    return written.rstrip("0").rstrip(".") if "." in written else written


def _power(exponent: int) -> str:
    return str(exponent).translate(_SUPERSCRIPT)


def _minus(written: str) -> str:
    return written.replace("-", "−")
