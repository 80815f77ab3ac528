"""bf16: the range of float32 with 8 bits of mantissa, where the CPU multiplies it natively.

ONNX Runtime's own kernels have no bf16. A package of ONNX is handed to OpenVINO, which computes the
same file in bf16, and its manifest says so; a torch program is written anew with bf16 weights.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import EngineError, StepError
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import naming, requirements, result
from mlserve_cli.runtime import engines
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.manifest import Manifest

if TYPE_CHECKING:
    import torch

TOLERANCE = 5e-2
"""8 bits of mantissa are 0.4 % each time, and sums are taken in other orders elsewhere."""


class BfloatStep:
    """The same model, computed in bf16 by OpenVINO (ONNX) or by torch (a `.pt2` program)."""

    name = "quantize-bf16"

    def requires(self, parent: Package) -> None:
        """Refuse what neither engine takes, and a machine on which OpenVINO does not run."""
        if parent.model.suffix == ".pt2":
            from mlserve_cli.training import source

            source.require_module(parent)
            return
        requirements.operators(parent)
        try:
            engines.load("openvino", parent.model, EngineOptions(precision="bf16")).close()
        except EngineError as error:
            raise StepError(
                f"an ONNX package computes in bf16 through OpenVINO, and {_lower(error.message)}",
                hint=error.hint
                or "take --method static, or export with --engine torch, which has bf16 as well",
            ) from error

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Copy the file for OpenVINO, or write the torch program in bf16."""
        manifest: dict[str, Any] = {"tolerance": max(TOLERANCE, parent.manifest.tolerance)}
        libraries: tuple[str, ...]
        if parent.model.suffix == ".pt2":
            from mlserve_cli.graph import successor
            from mlserve_cli.training import source

            progress.stage("writing the bf16 program")
            module = in_bfloat16(source.load(parent).module)
            successor.write(module, parent, draft.serve / parent.manifest.model)
            libraries = ("torch",)
        else:
            for file in parent.serve.glob(parent.manifest.model + "*"):  # external weights too
                shutil.copyfile(file, draft.serve / file.name)
            manifest |= {"engine": "openvino", "precision": "bf16"}
            libraries = ("onnxruntime", "onnxruntime-ep-openvino")
        result.copy_source(parent, draft)
        return Change(
            variant=naming.variant(parent.manifest.variant, "bf16"),
            parameters={"engine": manifest.get("engine", parent.manifest.engine)},
            libraries=libraries,
            manifest=manifest,
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """The signature is the parent's: clients see no bf16."""
        for before, after in (
            (parent.manifest.inputs, manifest.inputs),
            (parent.manifest.outputs, manifest.outputs),
        ):
            if [(s.name, s.datatype) for s in before] != [(s.name, s.datatype) for s in after]:
                raise StepError("the bf16 model has another signature than its parent.")


def in_bfloat16(module: torch.nn.Module) -> torch.nn.Module:
    """`module` with bf16 weights, that takes and answers float32 as before; changed in place."""
    import torch

    def narrow(value: Any) -> Any:
        floating = isinstance(value, torch.Tensor) and value.dtype == torch.float32
        return value.to(torch.bfloat16) if floating else value

    def widen(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: widen(each) for key, each in value.items()}
        if isinstance(value, (tuple, list)):
            return type(value)(widen(each) for each in value)
        half = isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16
        return value.to(torch.float32) if half else value

    module = module.to(torch.bfloat16)
    module.register_forward_pre_hook(
        lambda _, values, named: (
            tuple(narrow(each) for each in values),
            {key: narrow(each) for key, each in named.items()},
        ),
        with_kwargs=True,
    )
    module.register_forward_hook(lambda _module, _inputs, output: widen(output))
    return module


def _lower(text: str) -> str:
    return text if text.startswith("OpenVINO") else text[:1].lower() + text[1:]
