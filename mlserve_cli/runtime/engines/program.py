"""A loaded `.pt2` file as a plain function of tensors, in the order of its signature."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EngineError
from ..tensors import DATATYPES, TensorSpec
from .archive import Archive, Compiled, Signature, check_gpu, check_machine

if TYPE_CHECKING:
    import torch

Call = Callable[[Sequence["torch.Tensor"]], list["torch.Tensor"]]
"""Tensors of one device, in the order of the inputs → those of the outputs, on the same device."""

BATCH = "batch"


def load(archive: Archive, device: torch.device, *, streams: int) -> tuple[Signature, Call]:
    """The model on `device`. Raises `EngineError` when it is for another machine or incomplete."""
    if archive.compiled is not None:
        return _load_compiled(archive, archive.compiled, device, streams)
    program = load_program(archive)
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, str(device))
    return archive.signature or derive(program, archive.path), _call(program)


def _load_compiled(
    archive: Archive, compiled: Compiled, device: torch.device, streams: int
) -> tuple[Signature, Call]:
    import torch

    path = archive.path
    if compiled.device != device.type:
        raise EngineError(
            f"'{path}' was compiled for the device '{compiled.device}', "
            f"and it is to run on '{device.type}'.",
            hint=f"mlserve export MODEL --engine torch-aoti --device {device.type}",
        )
    check_machine(path, compiled)
    if device.type == "cuda":
        check_gpu(path, compiled, torch.cuda.get_device_capability(device))
    from torch._inductor.package.package import load_package

    # A graph is captured from one thread, which the loader's own synchronization would disturb.
    loaded = load_package(
        str(path),
        run_single_threaded=device.type == "cuda",
        num_runners=streams,
        device_index=-1 if device.index is None else device.index,
    )
    run = loaded.loader.boxed_run  # the loaded object itself parses the call's structure each time

    def call(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        found: list[torch.Tensor] = run(list(tensors))
        return found

    return compiled.read_signature(path), call


def load_program(archive: Archive) -> torch.export.ExportedProgram:
    """Read the program. Raises `EngineError` where its example inputs are more than tensors."""
    import torch

    if archive.example is not None:
        _check_example(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python's own modules, which PyTorch will adapt to
        return torch.export.load(str(archive.path))


def _check_example(archive: Archive) -> None:
    """PyTorch unpickles the example inputs, with fewer precautions where they need it."""
    import io
    import zipfile

    import torch

    with zipfile.ZipFile(archive.path) as file:
        content = io.BytesIO(file.read(archive.example or ""))
    try:
        torch.load(content, weights_only=True)
    except Exception as error:  # UnpicklingError, or what the damage leads to
        raise EngineError(
            f"the example inputs in '{archive.path}' are more than tensors, "
            "and loading them could run any code.",
            hint="set program._example_inputs = None before torch.export.save",
        ) from error


def _call(program: torch.export.ExportedProgram) -> Call:
    """The program's graph alone: its checks of each call cost 0.3 ms, and ours have been made."""
    import torch

    module = program.module(check_guards=False)
    module._forward_pre_hooks.clear()  # shapes against the constraints
    module._forward_pre_hooks_with_kwargs.clear()
    module.graph.set_codegen(torch.fx.graph.CodeGen())  # flat in, flat out: no trees of parameters
    module.recompile()

    def call(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [value for value in module(*tensors) if value is not None]

    return call


def _parameters(program: torch.export.ExportedProgram, path: Path) -> tuple[int, list[str]]:
    """How many inputs are passed by position, and the names of those passed by keyword."""
    arguments, keywords = program.call_spec.in_spec.children()
    for spec in (*arguments.children(), *keywords.children()):
        if not spec.is_leaf():
            raise EngineError(
                f"'{path}' takes lists or dicts of tensors, which cannot be served.",
                hint="wrap the model in a module whose forward() takes one tensor a parameter",
            )
    return arguments.num_children, list(keywords.context or ())


def named_outputs(answer: Any) -> list[tuple[str, Any]]:
    """What a module answers, by name: a dict's keys, "output" for one, "output_0" … for several."""
    if isinstance(answer, Mapping):
        return [(str(name), value) for name, value in answer.items() if value is not None]
    if isinstance(answer, (tuple, list)):
        fields = getattr(answer, "_fields", [f"output_{index}" for index in range(len(answer))])
        return list(zip(fields, answer, strict=True))
    return [("output", answer)]


def derive(program: torch.export.ExportedProgram, path: Path) -> Signature:
    """Names, datatypes and shapes as the program itself has them; the first dimension is "batch".

    Raises `EngineError` for what cannot be served.
    """
    import torch
    from torch.utils import _pytree as pytree

    positional, keywords = _parameters(program, path)
    nodes = {node.name: node for node in program.graph.nodes}
    placeholders = [nodes[name] for name in program.graph_signature.user_inputs]
    names = [node.name for node in placeholders[:positional]] + keywords
    sizes: dict[Any, str] = {}  # symbol → the name of the dimension
    inputs = []
    for name, node in zip(names, placeholders, strict=True):
        value = node.meta.get("val")
        if not isinstance(value, torch.Tensor):
            raise EngineError(f"input '{name}' of '{path}' is no tensor, which cannot be served.")
        inputs.append(_spec(name, value, sizes, path))
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    kept = len(program.graph_signature.user_outputs)
    flat = list(results)[len(results) - kept :]
    answer = pytree.tree_unflatten(flat, program.call_spec.out_spec)
    outputs = []
    for name, result in named_outputs(answer):
        value = getattr(result, "meta", {}).get("val")
        if not isinstance(value, torch.Tensor):
            raise EngineError(f"output '{name}' of '{path}' is no tensor, which cannot be served.")
        outputs.append(_spec(f"{name}_out" if name in names else name, value, sizes, path))
    limits = {
        name: limit
        for name, node in zip(names, placeholders, strict=True)
        if (limit := _limit(node)) is not None
    }
    return Signature(inputs=tuple(inputs), outputs=tuple(outputs), limits=limits)


def _spec(name: str, value: Any, sizes: dict[Any, str], path: Path) -> TensorSpec:
    shape: list[int | str] = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            shape.append(size)
            continue
        symbol = size.node.expr
        fallback = BATCH if not sizes else f"{name}_{axis}"
        shape.append(sizes.setdefault(symbol, fallback))
    return TensorSpec(name, _datatype(name, value, path), tuple(shape))


def _datatype(name: str, value: Any, path: Path) -> str:
    import torch

    kind = str(value.dtype).removeprefix("torch.")
    if value.dtype == torch.bfloat16:
        return "FP32"  # NumPy has no bfloat16; every one of its values is a float32
    for datatype, dtype in DATATYPES.items():
        if dtype.name == kind:
            return datatype
    raise EngineError(
        f"'{name}' of '{path}' is {kind}, which cannot be served.",
        hint="cast it in forward(), to float32 for one",
    )


_CASTS = ("aten._to_copy", "aten.to.", "aten.clone", "aten.view", "aten.reshape", "aten.contiguous")


def _limit(node: torch.fx.Node) -> int | None:
    """The rows of the smallest table that an input is an index into; None where it is none."""
    found: list[int] = []
    for user in node.users:
        operator = str(user.target)
        if operator.startswith("aten.embedding.default") and user.args[1] is node:
            found.append(int(user.args[0].meta["val"].shape[0]))  # type: ignore[union-attr]
        elif operator.startswith(_CASTS):
            limit = _limit(user)
            found += [] if limit is None else [limit]
    return min(found, default=None)
