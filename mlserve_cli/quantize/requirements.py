"""What a package must be, for quantization to be worth starting."""

from __future__ import annotations

from mlserve_cli.errors import StepError
from mlserve_cli.graph import attention
from mlserve_cli.graph.kernels import FLOAT
from mlserve_cli.package.package import Package

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
            hint="quantize a package that was exported to ONNX",
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
    heavy = sorted(found & FLOAT)
    return StepError(
        f"'{package.path}' has nothing to quantize: no {names}"
        + (f", only {', '.join(heavy)}." if heavy else "."),
    )
