"""LoadGen's summary, read: is the run valid, why not, and its figures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlserve_cli.errors import MlserveError

SUMMARY = "mlperf_log_summary.txt"

_LINE = re.compile(r"^\s*(?P<name>[^:]+?)\s*:\s*(?P<value>.+?)\s*$")
_EMPTY = ("", "Run successful", "Run unsuccessful")  # what the verdict says already
_RULE = re.compile(r"^=+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What LoadGen says. valid: None in accuracy mode, which it does not judge.

    constraints: what it checked → whether that holds. reasons: its words on what does not.
    figures: all numbers of the summary under its own names, in its units (ns, queries, …).
    """

    valid: bool | None
    constraints: dict[str, bool]
    reasons: tuple[str, ...]
    figures: dict[str, float]

    @property
    def sentence(self) -> str:
        """The verdict with its reason."""
        if self.valid is None:
            return "accuracy mode, which LoadGen does not judge"
        if self.valid:
            return "VALID"
        failed = [f"{name}: no" for name, holds in self.constraints.items() if not holds]
        return f"INVALID ({'; '.join([*failed, *self.reasons])})"

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "valid": self.valid,
            "constraints": self.constraints,
            "reasons": list(self.reasons),
            "figures": self.figures,
        }


def read(folder: Path) -> Summary:
    """The summary in a folder of logs. Raises `MlserveError` where there is none."""
    try:
        text = (folder / SUMMARY).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise MlserveError(f"LoadGen left no summary in '{folder}'.") from error
    return parse(text)


def parse(text: str) -> Summary:
    """The text of `mlperf_log_summary.txt`."""
    valid: bool | None = None
    constraints: dict[str, bool] = {}
    reasons: list[str] = []
    figures: dict[str, float] = {}
    for line in text.splitlines():
        if _RULE.match(line.strip()):
            continue
        if line.startswith(" *"):
            reasons.append(line.strip(" *").rstrip("."))
            continue
        if reasons and line.startswith(" ") and ":" not in line:
            reasons[-1] += f" {line.strip().rstrip('.')}"  # the sentence goes on
            continue
        found = _LINE.match(line)
        if found is None:
            continue
        name, value = found["name"], found["value"]
        if name == "Result is":
            valid = value == "VALID"
        elif name.endswith("satisfied"):
            constraints[name.removesuffix("satisfied").strip()] = value.lower() == "yes"
        else:
            try:
                figures[name] = float(value)
            except ValueError:
                continue
    return Summary(
        valid=valid,
        constraints=constraints,
        reasons=tuple(reason for reason in reasons if reason not in _EMPTY),
        figures=figures,
    )
