"""A torch module → an ONNX file: traced with real rows, any batch size, nothing of this machine."""

from __future__ import annotations

import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.graph import clean
from mlserve_cli.graph.names import rename_outputs
from mlserve_cli.runtime.tensors import Array, Tensors, rows

if TYPE_CHECKING:
    import onnx
    import torch

OPSET = 20
"""GELU is one operator from 20 on; 23 and 24 emit an Attention that ONNX Runtime gets wrong."""

BATCH = "batch"

_OUTPUT = "mlserve_output_"


def write_onnx(
    module: torch.nn.Module,
    sample: Tensors,
    path: Path,
    *,
    opset: int = OPSET,
    outputs: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Export `module` with the inputs of `sample`, whose names are those of its `forward`.

    The first dimension of every input is "batch", of any size; `dynamic` names further ones:
    `{"ids": {1: "length"}}`. `outputs` names the outputs; by default a single one is "output",
    those of a dict keep their keys, those of a tuple are "output_0", "output_1" …

    The module is left in eval mode. Raises `StepError` when it rejects the sample or cannot be
    traced, naming the line of the user's code or the operator.
    """
    model = trace(module, sample, opset=opset, outputs=outputs, dynamic=dynamic)
    clean.strip(model)
    clean.save(model, path)


def trace(
    module: torch.nn.Module,
    sample: Tensors,
    *,
    opset: int = OPSET,
    outputs: Sequence[str] | None = None,
    dynamic: Mapping[str, Mapping[int, str]] | None = None,
) -> onnx.ModelProto:
    """The graph that `write_onnx` writes, with the shapes of its inner values."""
    with needs_extra("torch", "export PyTorch models"):
        import onnxscript  # noqa: F401  (the exporter needs it, and says so late)
        import torch
    module.eval()
    sample = at_least_two(sample)
    names = tuple(sample)
    found = tuple(run(module, sample))
    outputs = tuple(outputs) if outputs is not None else found
    if len(outputs) != len(found):
        raise StepError(
            f"the model has {len(found)} outputs, and {len(outputs)} names were given for them: "
            f"{', '.join(outputs)}."
        )
    tensors = {name: torch.from_numpy(np.ascontiguousarray(sample[name])) for name in names}
    shapes = {name: {0: BATCH, **(dynamic or {}).get(name, {})} for name in names}
    by_name = keywords(module, names)
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                () if by_name else tuple(tensors.values()),
                None,
                kwargs=tensors if by_name else None,
                input_names=names,
                # A name of the user's may be an inner value's already, so it is given afterwards.
                output_names=[f"{_OUTPUT}{index}" for index in range(len(outputs))],
                dynamic_shapes=shapes if by_name else tuple(shapes.values()),
                opset_version=opset,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        raise translated(error) from error
    if program is None:
        raise StepError("the model cannot be traced.")
    model: onnx.ModelProto = program.model_proto
    _check_batch(model.graph)
    rename_outputs(model, outputs)
    return model


def run(module: torch.nn.Module, tensors: Tensors) -> Tensors:
    """What the module itself answers in eval mode, by the names that `write_onnx` gives.

    Raises `StepError` when it rejects the inputs or answers no tensors.
    """
    import torch

    given = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in tensors.items()}
    module.eval()
    by_name = keywords(module, tuple(given))
    try:
        with torch.inference_mode():
            answer = module(**given) if by_name else module(*given.values())
    except Exception as error:
        shapes = ", ".join(
            f"{name} {array.dtype} {tuple(array.shape)}" for name, array in tensors.items()
        )
        raise StepError(
            f"the model rejects the sample ({shapes}): {_sentence(error)}",
            hint=_hint(module, tensors),
        ) from error
    outputs: dict[str, Array] = {}
    for name, value in _named_outputs(answer):
        if not isinstance(value, torch.Tensor):
            raise StepError(
                f"the model answers a {type(value).__name__} as '{name}', where only tensors "
                "can be exported.",
                hint="forward() must return a tensor, a tuple of tensors or a dict of tensors",
            )
        value = value.float() if value.dtype == torch.bfloat16 else value  # NumPy has none
        outputs[f"{name}_out" if name in tensors else name] = value.numpy()
    return outputs


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter: it warns of things that it handles, and prints the graph it gave up."""
    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_TALKATIVE = ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")


def keywords(module: torch.nn.Module, names: tuple[str, ...]) -> bool:
    """Whether forward takes the inputs by name; else it takes them in their order."""
    parameters = inspect.signature(module.forward).parameters
    if any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return True
    for name in names:
        if name not in parameters or parameters[name].kind is inspect.Parameter.VAR_POSITIONAL:
            raise StepError(
                f"the sample has an input '{name}', and forward() takes {', '.join(parameters)}.",
                hint="name the inputs as forward() does; *args cannot be exported",
            )
    return all(parameters[name].kind is not parameters[name].POSITIONAL_ONLY for name in names)


def _hint(module: torch.nn.Module, tensors: Tensors) -> str:
    import torch

    doubles = [name for name, array in tensors.items() if array.dtype == np.float64]
    if doubles and all(each.dtype != torch.float64 for each in module.parameters()):
        return f"'{doubles[0]}' is float64, NumPy's default: give it with .astype('float32')"
    return "sample() must return what the model takes, with the batch as first dimension"


def _check_batch(graph: onnx.GraphProto) -> None:
    """Refuse a graph whose first dimension the exporter took for a constant."""
    for value in graph.input:
        first = value.type.tensor_type.shape.dim[:1]
        if first and first[0].HasField("dim_value"):
            raise baked(str(first[0].dim_value), value.name, 0)


def baked(size: str, name: str, axis: int) -> StepError:
    """What is said of a size that the model does not take from its input."""
    if axis:
        return StepError(
            f"size {size} of dimension {axis} of '{name}' was baked into the model, "
            "and DYNAMIC says that it may differ.",
            hint=f"take it from the input, as {name}.shape[{axis}]; or leave it out of DYNAMIC",
        )
    return StepError(
        f"the batch size {size} was baked into the model.",
        hint=f"forward() must take it from its input, as {name}.shape[0], "
        "never from a number or by looping over the rows",
    )


def _named_outputs(answer: Any) -> list[tuple[str, Any]]:
    if isinstance(answer, Mapping):
        return [(str(name), value) for name, value in answer.items() if value is not None]
    if isinstance(answer, (tuple, list)):
        fields = getattr(answer, "_fields", [f"output_{index}" for index in range(len(answer))])
        return list(zip(fields, answer, strict=True))
    return [("output", answer)]


def at_least_two(sample: Tensors) -> Tensors:
    """Two rows or more: torch takes a size of 1 for a constant."""
    if rows(sample) > 1:
        return sample
    return {name: np.concatenate([array, array]) for name, array in sample.items()}


def translated(error: BaseException) -> StepError:
    """One sentence of the exporter's pages: the operator, or the line of the user's code."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__
    text = "\n".join(str(each) for each in chain)
    static = re.search(
        r"static shape of (\d+) for dimension inputs\['([^']+)'\]\.shape\[(\d+)\]", text
    )
    if static:
        return baked(static[1], static[2], int(static[3]))
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", text) or (
        re.search(
            r"No (?:decompositions|ONNX function) (?:registered|found) for .*?'([\w.:]+)'", text
        )
    )
    if operator:
        return StepError(
            f"the model uses the operator '{operator[1]}', which has no ONNX form.",
            hint="write that part of forward() with other operators",
        )
    return StepError(
        f"the model cannot be traced{_user_line(text)}: {_sentence(chain[-1])}",
        hint="forward() must not branch or loop on the values of tensors; "
        "torch.where and torch.cond can stand in",
    )


def _user_line(text: str) -> str:
    lines = [
        (path, line)
        for path, line in re.findall(r'File "([^"]+)", line (\d+)', text)
        if "site-packages" not in path and "/torch/" not in path and not path.startswith("<")
    ]
    if not lines:
        return ""
    path, line = lines[-1]
    return f" at line {line} of '{Path(path).name}'"


def _sentence(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.partition("\n")[0].rstrip(".") + "."
