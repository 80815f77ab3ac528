"""Today's figures against an older report's: did anything become slower, beyond noise?

The two were not measured in turns, so their intervals alone decide: the slowest that the old median
may have been against the fastest that the new one may be. Nothing is said of other hardware.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlserve_cli.bench.report import BEYOND
from mlserve_cli.errors import DataError

LEAST_DIFFERENCE = 0.05
"""Between two runs of one and the same package on one machine medians differ by a few percent: by
where memory happens to lie, and by what else the machine did."""

Verdict = Literal["slower", "faster", "no difference"]

_HARDWARE = ("cpu_name", "logical_cpus", "physical_cores", "cpu_quota", "isa")
_KINDS = ("engines", "live")


@dataclass(frozen=True, slots=True)
class _Figure:
    """A latency with its interval."""

    ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One latency then and now. ratio: now over then, so above 1 is slower."""

    subject: str
    condition: str
    figure: str
    before_ms: float
    after_ms: float
    ratio: float
    low: float
    high: float
    verdict: Verdict

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a comparison with an old report says.

    unlike: what differs of the hardware; then there is no verdict. gone: what was measured then
    and could not be now. notes: what else differs. doubts: of both.
    """

    changes: tuple[Change, ...]
    unlike: tuple[str, ...]
    gone: tuple[str, ...]
    notes: tuple[str, ...]
    doubts: tuple[str, ...]
    least: float

    @property
    def slower(self) -> list[Change]:
        """The regressions."""
        return [change for change in self.changes if change.verdict == "slower"]

    @property
    def regressed(self) -> bool:
        """Whether a script should fail: what is slower or gone, or nothing could be compared."""
        return not self.unlike and bool(self.slower or self.gone or not self.changes)

    def confirmed(self, second: Outcome) -> Outcome:
        """The second of two measurements, in which slower is only what was slower in both."""
        before = {(one.subject, one.condition, one.figure) for one in self.slower}
        return replace(
            second,
            changes=tuple(
                replace(one, verdict="no difference")
                if one.verdict == "slower"
                and (one.subject, one.condition, one.figure) not in before
                else one
                for one in second.changes
            ),
        )

    @property
    def sentence(self) -> str:
        """The whole in one line."""
        if self.unlike:
            return f"no verdict, since the hardware is another: {'; '.join(self.unlike)}"
        parts = []
        if self.slower:
            worst = max(self.slower, key=lambda change: change.ratio)
            parts.append(
                f"{len(self.slower)} of {len(self.changes)} figures are slower, the worst "
                f"{worst.figure} of {worst.subject} ({worst.condition}) {worst.ratio:.2f} times"
            )
        if self.gone:
            parts.append(f"{len(self.gone)} can be measured no more")
        faster = sum(change.verdict == "faster" for change in self.changes)
        if not parts and not self.changes:
            parts.append("the old report holds no figure that was measured again")
        elif not parts:
            parts.append(f"no regression in {len(self.changes)} figures")
        if faster:
            parts.append(f"{faster} faster")
        return "; ".join(parts)

    def markdown(self) -> str:
        """For a pull request."""
        mark = "⚪" if self.unlike else "❌" if self.regressed else "✅"
        lines = [f"### {mark} mlserve bench: {self.sentence}", ""]
        lines += [
            "| | | | before | now | change (95 %) | |",
            "|---|---|---|---:|---:|---:|---|",
        ]
        for one in self.changes:
            verdict = "–" if self.unlike else one.verdict
            lines.append(
                f"| {_cell(one.subject)} | {_cell(one.condition)} | {one.figure} "
                f"| {one.before_ms:.3g} ms | {one.after_ms:.3g} ms "
                f"| {one.ratio - 1:+.1%} ({one.low - 1:+.1%} … {one.high - 1:+.1%}) "
                f"| {'**slower**' if verdict == 'slower' else verdict} |"
            )
        lines.append("")
        lines += [f"- gone: {each}" for each in self.gone]
        lines += [f"- {each}" for each in self.notes]
        lines += [f"- doubtful: {each}" for each in self.doubts]
        lines.append(
            f"- a regression is an interval that lies above 0 with a median over {self.least:.0%}"
        )
        return "\n".join(lines) + "\n"

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "schema": 1,
            "kind": "comparison",
            "regressed": self.regressed,
            "sentence": self.sentence,
            "least_difference": self.least,
            "other_hardware": list(self.unlike),
            "gone": list(self.gone),
            "notes": list(self.notes),
            "changes": [change.facts() for change in self.changes],
        }


def read(path: Path) -> dict[str, Any]:
    """An old report. Raises `DataError` for what is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"'{path}' is no JSON: {error}.", hint="it is what 'mlserve bench --json' printed"
        ) from error
    if not isinstance(found, dict) or found.get("kind") not in _KINDS or found.get("schema") != 1:
        raise DataError(
            f"'{path}' is no report of 'mlserve bench' that this version reads.",
            hint="it is what 'mlserve bench --json' printed, of schema 1",
        )
    return found


def judge(old: dict[str, Any], new: dict[str, Any], *, least: float = LEAST_DIFFERENCE) -> Outcome:
    """Compare two documents of one kind. Raises `DataError` where one lacks what must be there."""
    try:
        new = _renamed(old, new)
        before, after = _points(old), _points(new)
        unlike = [
            f"{name} was {old['hardware'][name]} and is {new['hardware'][name]}"
            for name in _HARDWARE
            if _plain(old["hardware"][name]) != _plain(new["hardware"][name])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the old report lacks what is to be compared: {error}.",
            hint="make it anew with 'mlserve bench --json'",
        ) from error
    changes = [
        _change(key, before[key], figure, least) for key, figure in after.items() if key in before
    ]
    gone = dict.fromkeys(
        f"{subject} ({condition})"
        for subject, condition, figure in before
        if figure == "p50" and (subject, condition, figure) not in after
    )
    return Outcome(
        changes=tuple(changes),
        unlike=tuple(unlike),
        gone=tuple(gone),
        notes=tuple(_notes(old, new)),
        doubts=(
            *new["warnings"],
            *(f"then, {each}" for each in old["warnings"] if each not in new["warnings"]),
        ),
        least=least,
    )


def _renamed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """As many packages under other names, such as a new build's folder, are those of before."""
    if new["kind"] != "engines":
        return new
    then, now = ([each["label"] for each in one["packages"]] for one in (old, new))
    if len(then) != len(now) or set(then) & set(now):
        return new
    packages = [{**each, "label": label} for label, each in zip(then, new["packages"], strict=True)]
    return {**new, "packages": packages}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _change(key: tuple[str, str, str], old: _Figure, new: _Figure, least: float) -> Change:
    ratio, low, high = new.ms / old.ms, new.low_ms / old.high_ms, new.high_ms / old.low_ms
    verdict: Verdict = "no difference"
    if low > 1 and ratio > 1 + least:
        verdict = "slower"
    elif high < 1 and ratio < 1 / (1 + least):
        verdict = "faster"
    subject, condition, figure = key
    return Change(
        subject=subject,
        condition=condition,
        figure=figure,
        before_ms=old.ms,
        after_ms=new.ms,
        ratio=ratio,
        low=low,
        high=high,
        verdict=verdict,
    )


def _points(document: dict[str, Any]) -> dict[tuple[str, str, str], _Figure]:
    """(subject, condition, which latency) → the figure with its interval."""
    found = {}
    for subject, condition, count, figures in _cells(document):
        for name in ("p50", "p99"):
            if name == "p99" and count * 0.01 < BEYOND:
                continue
            value = figures.get(f"{name}_ms")
            if not value:
                continue  # nothing was answered
            low, high = figures[f"{name}_low_ms"], figures[f"{name}_high_ms"]
            found[subject, condition, name] = _Figure(value, low, high)
    return found


def _cells(document: dict[str, Any]) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    if document["kind"] == "engines":
        for package in document["packages"]:
            for batch in package["batches"]:
                yield package["label"], f"batch {batch['batch']}", batch["runs"], batch
        return
    for server in document["servers"]:
        subject = f"{server['url']} {server['model']} ({server['protocol']})"
        for run in server["runs"]:
            load = (
                f"{run['concurrency']} users"
                if "concurrency" in run
                else f"{run['rate_per_s']:g}/s"
            )
            yield subject, load, run["answered"], run["latency"]


def _notes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    then, now = old.get("libraries", {}), new.get("libraries", {})
    for name in dict.fromkeys((*then, *now)):
        if then.get(name) != now.get(name):
            yield f"{name} was {then.get(name, 'not there')} and is {now.get(name, 'not there')}"
    digests = {each["label"]: each["digest"] for each in old.get("packages", ())}
    for package in new.get("packages", ()):
        before = digests.get(package["label"])
        if before not in (None, package["digest"]):
            yield f"{package['label']} is another package than it was ({package['digest'][:19]}…)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
