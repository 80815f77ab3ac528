"""The same model, executed by another engine: a step like any other, as its answers change a bit.

The file of an ONNX package runs in OpenVINO as it is. For torch a program is written from the
module that the package holds in `source/`.
"""

from __future__ import annotations

import shutil
from typing import Any

from mlserve_cli.errors import EngineError, StepError
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.runtime import engines, golden
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.manifest import Manifest

CHOICES = ("openvino", "torch")
"""What an ONNX package can be handed to."""

MODEL = "model.pt2"


class EngineStep:
    """Hand an ONNX package to another engine."""

    name = "engine"

    def __init__(self, engine: str) -> None:
        if engine not in CHOICES:
            raise StepError(
                f"'{engine}' is no engine that a package can be handed to.",
                hint=f"it can be {' or '.join(CHOICES)}",
            )
        self._engine = engine

    def requires(self, parent: Package) -> None:
        """Refuse what is no ONNX package, an engine that does not run here, a missing module."""
        if parent.model.suffix != ".onnx":
            raise StepError(
                f"'{parent.path}' holds '{parent.manifest.model}', which is no ONNX model, and "
                "only that can be handed to another engine."
            )
        if self._engine == "torch":
            from mlserve_cli.training import source

            source.require_module(parent)
            return
        try:
            engines.load(self._engine, parent.model, EngineOptions()).close()
        except EngineError as error:
            raise StepError(error.message, hint=error.hint) from error

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Copy the file, or write the torch program; take the source along."""
        manifest: dict[str, Any] = {"engine": self._engine}
        libraries: tuple[str, ...] = ("onnxruntime", "onnxruntime-ep-openvino")
        if self._engine == "torch":
            progress.stage("writing the torch program")
            manifest["model"] = MODEL
            libraries = ("torch",)
            _write_program(parent, draft)
        else:
            for file in parent.serve.glob(parent.manifest.model + "*"):  # external weights too
                shutil.copyfile(file, draft.serve / file.name)
        if parent.source.is_dir():
            shutil.copytree(parent.source, draft.source, dirs_exist_ok=True)
        return Change(
            variant=f"{parent.manifest.variant}-{self._engine}",
            parameters={"engine": self._engine},
            libraries=libraries,
            manifest=manifest,
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """The signature is the parent's: clients see no engine."""
        before, after = (
            [(spec.name, spec.datatype) for spec in (*each.inputs, *each.outputs)]
            for each in (parent.manifest, manifest)
        )
        if before != after:
            raise StepError(f"in the engine '{self._engine}' the model has another signature.")


def _write_program(parent: Package, draft: Draft) -> None:
    from mlserve_cli.graph import program
    from mlserve_cli.training import source

    program.write(
        source.load(parent).module,
        golden.read(parent.serve).inputs,
        draft.serve / MODEL,
        outputs=[spec.name for spec in parent.manifest.outputs],
        dynamic={
            spec.name: {
                axis: size for axis, size in enumerate(spec.shape) if axis and isinstance(size, str)
            }
            for spec in parent.manifest.inputs
        },
    )
