"""int4 or int8 weights, float activations: for models whose time and size are their weights.

Each block of 32 weights along the summed dimension has a scale of its own (ONNX Runtime's
MatMulNBits). The kernel rounds each block of activations to int8 as it multiplies, row by row, so
rows stay independent of their neighbours. Convolutions stay in float.

    rtn   round to nearest
    hqq   scales and zero points by half-quadratic optimization, without data
          (Badri and Shaji, "Half-Quadratic Quantization", 2023); 4 bits, needs torch
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlserve_cli.errors import StepError, first_line, needs_extra
from mlserve_cli.package import file_size
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.quantize import matmul, memory, naming, requirements, result
from mlserve_cli.quantize.prepare import prepare, quietly
from mlserve_cli.quantize.selection import heavy
from mlserve_cli.runtime.manifest import Manifest

if TYPE_CHECKING:
    from onnx import ModelProto

Algorithm = Literal["rtn", "hqq"]

OPERATORS = ("MatMul", "Gemm")
BLOCK = 32
"""Weights that share a scale: the finest that has fast kernels, at one bit a weight."""

INT8_ACTIVATIONS = 4
"""MatMulNBits' accuracy_level: with float ones (0) a small transformer was 4 times as slow."""

TOLERANCE = 1e-2
"""Activations are rounded to 255 steps inside the kernel, and kernels differ from CPU to CPU."""


class WeightOnlyStep:
    """Store the weights of matrix products in `bits` (4 or 8); the rest stays as it is.

    exclude: names, or patterns with `*`, of products to leave in float.
    """

    def __init__(
        self, *, bits: Literal[4, 8] = 4, algorithm: Algorithm = "rtn", exclude: Sequence[str] = ()
    ) -> None:
        if algorithm == "hqq" and bits != 4:
            raise StepError(
                f"hqq is for 4 bits, not {bits}.", hint="8 bits are close enough with rtn"
            )
        self._bits = bits
        self._algorithm = algorithm
        self._exclude = tuple(exclude)
        self.name = f"quantize-int{bits}-weights"

    def requires(self, parent: Package) -> None:
        """Refuse what is no ONNX model, is quantized already, or has no matrix product."""
        found = requirements.operators(parent)
        if found.isdisjoint(OPERATORS):
            raise requirements.refuse(parent, found, OPERATORS)
        if self._algorithm == "hqq":
            with needs_extra("torch", "find scales with hqq"):
                import torch  # noqa: F401
        memory.require(parent, copies=memory.WEIGHTS)

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Write the model with small weights, take the source along."""
        import onnx

        from mlserve_cli.graph import clean

        with tempfile.TemporaryDirectory(prefix="mlserve-quantize-") as folder:
            progress.stage("preparing the float model")
            model = onnx.load(prepare(parent.model, Path(folder)))
        matmul.unfuse(model)
        nodes = heavy(model, ("MatMul",), self._exclude)
        progress.stage(f"rounding weights to {self._bits} bits")
        written = write(model, nodes, bits=self._bits, algorithm=self._algorithm)
        clean.save(written, draft.serve / parent.manifest.model)
        result.copy_source(parent, draft)
        return Change(
            variant=naming.variant(parent.manifest.variant, f"int{self._bits}-weights"),
            parameters={
                "bits": self._bits,
                "algorithm": self._algorithm,
                "block": BLOCK,
                "activations": "int8 a block, inside the kernel",
                "exclude": list(self._exclude),
            },
            libraries=("onnx", "onnxruntime"),
            manifest={"finite_inputs": True, "tolerance": TOLERANCE},
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """Some products really have small weights, and the package is smaller for it."""
        import onnx

        package = Package(draft.path, manifest)
        graph = onnx.load(package.model, load_external_data=False).graph
        count = sum(node.op_type == "MatMulNBits" for node in graph.node)
        if not count:
            raise StepError("no weight of the model could be stored in fewer bits.")
        if package.size_bytes >= parent.size_bytes:
            raise StepError(
                f"the result is no smaller: {file_size.text(package.size_bytes)}, where its parent "
                f"has {file_size.text(parent.size_bytes)}.",
                hint="this model's size is not in its matrix products",
            )
        package.add_evidence(
            "weights",
            {
                "summary": f"{count} products with {self._bits}-bit weights; "
                f"{file_size.text(parent.size_bytes)} became {file_size.text(package.size_bytes)}",
                "products": count,
                "bits": self._bits,
            },
        )


def write(
    model: ModelProto, nodes: Sequence[str], *, bits: int, algorithm: Algorithm = "rtn"
) -> ModelProto:
    """Replace the MatMul nodes named by MatMulNBits; `model` is used up."""
    from onnxruntime.quantization.matmul_nbits_quantizer import (
        HQQWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
    )

    wanted = set(nodes)
    others = [node.name for node in model.graph.node if node.name not in wanted]
    config = HQQWeightOnlyQuantConfig(block_size=BLOCK, bits=bits) if algorithm == "hqq" else None
    try:
        with quietly():
            quantizer: Any = MatMulNBitsQuantizer(
                model,
                bits=bits,
                block_size=BLOCK,
                is_symmetric=True,
                nodes_to_exclude=others,
                op_types_to_quantize=("MatMul",),
                algo_config=config,
            )
            quantizer.process()
    except Exception as error:  # the library raises whatever its parts do
        raise StepError(f"the weights cannot be quantized: {first_line(error)}.") from error
    written: ModelProto = quantizer.model.model
    for node in written.graph.node:
        if node.op_type == "MatMulNBits":
            _set(node, "accuracy_level", INT8_ACTIVATIONS)
    return written


def _set(node: Any, name: str, value: int) -> None:
    from onnx import helper

    kept = [item for item in node.attribute if item.name != name]
    copies = [type(item).FromString(item.SerializeToString()) for item in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, helper.make_attribute(name, value)])
