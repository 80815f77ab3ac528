"""What a package's evidence claims of its accuracy, held to what is measured on this machine.

The same int8 file is another model on another processor: without VNNI its sums saturate, and other
kernels round otherwise. So the gate is run again where the package is to be served.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.verify import Check
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.runtime.hardware import detect

if TYPE_CHECKING:
    from mlserve_cli.evaluate.evaluation import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The newest gate that a package passed; without one, the first accuracy measured of it.

    value: in the metric's unit. n, fingerprint: of the rows; evidence that was written before
    there were fingerprints has "".
    before: what the gate held it to, the parent's value; None where no parent was measured.
    max_drop: what the gate allowed to be lost against it.
    """

    metric: str
    value: float
    n: int
    fingerprint: str
    before: float | None = None
    max_drop: float | None = None

    @classmethod
    def of(cls, package: Package) -> Claim | None:
        """The claim in the evidence that is about this very package, or None."""
        digest = package.manifest.digest
        records = {
            kind: [record for record in package.evidence(kind) if record.get("digest") == digest]
            for kind in ("gate", "accuracy")
        }
        for record in reversed(records["gate"]):
            if not record.get("refusals") and "after" in record:
                return cls(
                    metric=record["metric"],
                    value=record["after"],
                    n=record["drop"]["n"],
                    fingerprint=_fingerprint(records["accuracy"], record),
                    before=record["before"],
                    max_drop=record["max_drop"],
                )
        for record in records["accuracy"]:
            return cls(
                metric=record["metric"],
                value=record["value"],
                n=record["n"],
                fingerprint=record.get("fingerprint", ""),
            )
        return None

    def check(self, found: Evaluation) -> Check:
        """Whether `found`, measured here, is within what the claim allows.

        On the same rows the figures themselves are compared, as the gate does. On other rows the
        claim fails only where the whole interval lies below what it allows.
        """
        from mlserve_cli.evaluate.wording import amount, with_unit

        name, metric = "accuracy", found.metric
        if metric.name != self.metric:
            return Check(
                name,
                False,
                f"the evidence claims '{self.metric}', and '{metric.name}' was measured",
            )
        base = self.value if self.before is None else self.before
        allowed = self.max_drop
        if allowed is None:
            allowed = Gate().allowed_drop(found)
        sign = 1.0 if metric.higher_is_better else -1.0
        same_rows = found.n == self.n and self.fingerprint in ("", found.fingerprint)
        best = max(sign * found.low, sign * found.high)  # the end of the interval that is good
        here = sign * found.value if same_rows else best
        holds = sign * base - here <= allowed + ROUNDING * abs(base)
        rows = f"on the same {self.n:,} rows" if same_rows else f"on {self.n:,} other rows"
        held_to = "that" if self.before is None else f"its parent's {amount(base, metric)}"
        return Check(
            name,
            holds,
            f"{found.sentence()}; the evidence claims {with_unit(self.value, metric)} {rows}, and "
            f"a loss of at most {with_unit(allowed, metric)} against {held_to} "
            f"{'holds' if holds else 'does not hold'} on this machine ({detect().cpu_name})",
        )


ROUNDING = 1e-9
"""Of the claimed value: 98.3 - 97.3 is a little more than 1.0 in binary."""


def verify(
    path: Path,
    *,
    data: str | None,
    target: str | None,
    reference: Path | None,
    progress: Progress,
) -> Check:
    """Measure the package here, with `data` or its definition's evaluation(), against its claim.

    reference: for data without targets, the package whose decisions were the targets; as
    `evaluate` takes it. Nothing is written. Raises what an evaluation raises.
    """
    from mlserve_cli.evaluate.report import measure

    claim = Claim.of(Package.open(path))
    if claim is None:
        return Check(
            "accuracy",
            False,
            f"the evidence holds no accuracy to compare with ('mlserve evaluate {path}' adds one)",
        )
    measured = measure(
        path, data=data, target=target, reference=reference, progress=progress, keep=False
    )
    return claim.check(measured.evaluation)


def _fingerprint(accuracies: list[dict[str, Any]], gate: dict[str, Any]) -> str:
    """Of the rows that a gate saw: the gate's own evaluation stands beside it, as `accuracy`."""
    for record in accuracies:
        if record["value"] == gate["after"] and record["n"] == gate["drop"]["n"]:
            return str(record.get("fingerprint", ""))
    return ""
