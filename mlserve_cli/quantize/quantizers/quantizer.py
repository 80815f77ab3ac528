"""What every quantizer is asked, and what it is given."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mlserve_cli.errors import MissingExtra, StepError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.quantize.calibration.cache import RangeCache
from mlserve_cli.quantize.calibration.rows import CalibrationRows
from mlserve_cli.quantize.choices import Choices

if TYPE_CHECKING:
    from onnx import ModelProto

    from mlserve_cli.quantize.static import Quantized


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model to quantize.

    parent: the float package. path: its graph as `prepare` wrote it.
    rows: checked, to be gone through as often as need be. folder: for what is written on the way.
    """

    parent: Package
    path: Path
    rows: CalibrationRows
    choices: Choices
    folder: Path
    cache: RangeCache | None
    progress: Progress

    @property
    def prepared(self) -> ModelProto:
        """The graph at `path`, read anew: who asks holds all its weights in memory."""
        import onnx

        return onnx.load(self.path)


class Quantizer(Protocol):
    """From a float model and rows to an int8 model in QDQ form."""

    @property
    def name(self) -> str:
        """As it is asked for, and as the lineage has it."""
        ...

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions whose versions shape the result, beside onnx and onnxruntime."""
        ...

    def requires(self, parent: Package, choices: Choices) -> None:
        """Refuse what it cannot do, before its library is imported.

        Raises `StepError`, and `MissingExtra` where the library is not installed.
        """
        ...

    def quantize(self, job: Job) -> Quantized:
        """The int8 model. Raises `StepError` for what its library refuses."""
        ...


def require_library(module: str, extra: str, purpose: str) -> None:
    """Raise `MissingExtra` unless `module` can be imported; it is looked for, not imported.

    `purpose` finishes the sentence "… is needed to".
    """
    if importlib.util.find_spec(module) is None:
        raise MissingExtra(
            f"'{module}' is needed to {purpose}, and it is not installed.",
            hint=f"pip install 'mlserve-cli[{extra}]'",
        )


def refuse(quantizer: str, wishes: Iterable[tuple[bool, str]]) -> None:
    """Raise `StepError` for the first wish that holds: "(whether, what it cannot do)"."""
    for wished, what in wishes:
        if wished:
            raise StepError(
                f"the quantizer '{quantizer}' {what}.",
                hint="leave that option out, or take --quantizer onnxruntime, which has it",
            )
