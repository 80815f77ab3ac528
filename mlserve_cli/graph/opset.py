"""The operator set of a graph: which it has, and a younger one where quantization needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

OLDEST = 7
"""ONNX Runtime promises to run this and all later ones."""

LEAST = 13
"""Per-channel quantization writes an invalid model below it."""

TARGETS = (17, 15, 13)
"""Tried in this order: the converter has gaps, and more of them the further it goes."""


def of(model: onnx.ModelProto) -> int:
    """The version of the default operator set; 0 where the graph uses none of its operators."""
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def converted(model: onnx.ModelProto, target: int) -> onnx.ModelProto | None:
    """The graph in the operator set `target`; None where the converter cannot."""
    from onnx import version_converter

    try:
        found: onnx.ModelProto = version_converter.convert_version(model, target)
    except Exception:  # a RuntimeError of C++, by whatever it stumbled over
        return None
    found.ir_version = max(found.ir_version, 7)
    return found


def written_out(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The graph with each masked Attention in the standard's own steps, and how many there were.

    ONNX Runtime 1.32 takes no mask of one row for all queries, (batch, 1, 1, length), for the
    Attention of opsets 23 and 24, which the standard allows; the steps are the standard's.
    """
    from onnx import inliner

    if of(model) not in (23, 24):
        return model, 0
    count = sum(
        node.op_type == "Attention"
        and node.domain in ("", "ai.onnx")
        and len(node.input) > 3
        and node.input[3] != ""
        for node in model.graph.node
    )
    if not count:
        return model, 0
    found: onnx.ModelProto = inliner.inline_selected_functions(
        model, [("", "Attention")], exclude=False, inline_schema_functions=True
    )
    return found, count


_DEFAULT = {"ai.onnx": ""}
"""The domain's other name, which the table of operators does not know."""


def foreign_operators(model: onnx.ModelProto) -> list[str]:
    """Operators that neither ONNX nor ONNX Runtime has: "name", or "domain:name"."""
    import onnx

    own = {(function.domain, function.name) for function in model.functions}
    return sorted(
        {
            f"{node.domain}:{node.op_type}" if node.domain else node.op_type
            for node in model.graph.node
            if (node.domain, node.op_type) not in own
            and not node.domain.startswith("com.microsoft")
            and not onnx.defs.has(node.op_type, _DEFAULT.get(node.domain, node.domain))
        }
    )
