"""What a package must be, for quantization to be worth starting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlserve_cli.errors import StepError
from mlserve_cli.graph import attention
from mlserve_cli.graph.kernels import FLOAT
from mlserve_cli.package.package import Package

if TYPE_CHECKING:
    from onnx import NodeProto

QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}) | {
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulNBits",
}
FUSED = frozenset({"Attention", "MultiHeadAttention", "GroupQueryAttention"})
TREES = frozenset({"TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor"})


def operators(package: Package) -> frozenset[str]:
    """The operator types of a package's ONNX graph; its weights are not read.

    Raises `StepError` when the package holds no ONNX model, or one that is quantized already.
    """
    from onnx import load

    if package.model.suffix != ".onnx":
        raise StepError(
            f"'{package.path}' is run by the engine '{package.manifest.engine}' from "
            f"'{package.manifest.model}', which is no ONNX model.",
            hint=_to_onnx(package),
        )
    model = load(package.model, load_external_data=False)
    attention.unfuse(model)  # as `prepare` will
    found = frozenset(node.op_type for node in model.graph.node)
    if found & FUSED:
        raise StepError(
            f"'{package.path}' has attention that another tool fused "
            f"({', '.join(sorted(found & FUSED))}), whose products int8 cannot reach.",
            hint="export it from the model that it was made from; what 'mlserve export --fuse' "
            "fuses, quantize takes apart",
        )
    if found & QUANTIZED:
        raise StepError(
            f"'{package.path}' ({package.manifest.variant}) is quantized already: it holds "
            f"{', '.join(sorted(found & QUANTIZED))}.",
            hint="quantize the float package that it was made from",
        )
    return found


def refuse(package: Package, found: frozenset[str], wanted: tuple[str, ...]) -> StepError:
    """The error for a model that has none of the `wanted` operators, with the likely reason."""
    names = ", ".join(wanted[:-1]) + f" or {wanted[-1]}"
    trees = sorted(found & TREES)
    if trees:
        return StepError(
            f"'{package.path}' is a tree ensemble ({', '.join(trees)}), and int8 does nothing for "
            f"trees: they compare, where quantization speeds up {names}.",
            hint="serve it as it is; trees are fast already",
        )
    holders = _holders(package)
    if holders:
        inner = sorted({name for names in holders.values() for name in names})
        more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
        return StepError(
            f"'{package.path}' has nothing to quantize in its main graph: {', '.join(inner)} lie "
            f"inside {', '.join(list(holders)[:3])}{more}, where int8 is not written, since which "
            "branch runs, and how often, is decided while the model runs.",
            hint="make the branch that you use the main graph, by fixing what decides it, and "
            "export that; or serve it as it is",
        )
    heavy = sorted(found & FLOAT)
    return StepError(
        f"'{package.path}' has nothing to quantize: no {names}"
        + (f", only {', '.join(heavy)}." if heavy else "."),
        hint=None if heavy else "serve it as it is: what int8 makes faster is not in it",
    )


def _to_onnx(package: Package) -> str:
    """How the model of another engine becomes an ONNX package."""
    definition = package.source / "definition.py"
    if definition.is_file():
        return f"mlserve export {definition} -o NEW writes it as ONNX; quantize that"
    if package.model.suffix == ".pt2" and "aoti" not in package.manifest.variant:
        return (
            f"mlserve export {package.model} -o NEW writes the program as ONNX; quantize that, "
            "with --calibration"
        )
    return "export what it was made from for the engine onnxruntime, and quantize that"


def _holders(package: Package) -> dict[str, set[str]]:
    """The branches and loops that hold costly operators, and which ones those are."""
    from onnx import load

    found: dict[str, set[str]] = {}
    for node in load(package.model, load_external_data=False).graph.node:
        inner = set(_inside(node)) & FLOAT
        if inner:
            found[f"{node.op_type} '{node.name or node.output[0]}'"] = inner
    return found


def _inside(node: NodeProto) -> Iterator[str]:
    """The operators of a node's branches and bodies, however deep."""
    graphs = (g for item in node.attribute for g in (item.g, *item.graphs))
    for graph in graphs:
        for inner in graph.node:
            yield inner.op_type
            yield from _inside(inner)
