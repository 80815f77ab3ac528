"""`source/` of a package: what further training needs, and never a pickle.

    definition.py         the user's definition, and the FILES that it needs, beside it
    weights.safetensors   the module's state dict
    source.json           how to rebuild the module: which function of the definition makes the
                          network, what pruning changed since, which names share one tensor

A definition that is no torch module has its definition and FILES alone, without source.json.
"""

from __future__ import annotations

import ast
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli.errors import DefinitionError, StepError, needs_extra
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.package import Package
from mlserve_cli.training import history as histories
from mlserve_cli.training.inputs import input_names, tensors

if TYPE_CHECKING:
    import torch

DEFINITION = "definition.py"
WEIGHTS = "weights.safetensors"
SOURCE_JSON = "source.json"

TOLERANCE = 1e-5
"""Of the rebuilt module's answers, relative: another memory layout sums otherwise, no more."""


class _Source(msgspec.Struct, forbid_unknown_fields=True):
    entry: str
    history: list[dict[str, Any]]
    input_names: tuple[str, ...]
    shared: dict[str, str] = {}  # name in the state dict → the name that holds the same tensor


@dataclass(frozen=True, slots=True)
class Trainable:
    """A package's module, rebuilt with its weights, in eval mode."""

    definition: Definition
    module: torch.nn.Module
    entry: str
    history: list[dict[str, Any]]
    input_names: tuple[str, ...]


def write(
    folder: Path,
    definition: Definition,
    module: torch.nn.Module | None,
    *,
    entry: str = "model",
    history: list[dict[str, Any]] | None = None,
) -> None:
    """Write `folder`, then rebuild the module from it and compare the answers.

    `entry` names the function that makes the network: "architecture", "model" or "student";
    architecture() stands in for model() where the definition has it. `module` is None for what is
    no torch module. Raises `DefinitionError` when the module cannot be rebuilt alike.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _copy(definition, folder)
    if module is None:
        return
    with needs_extra("torch", "write torch weights"):
        from safetensors.torch import save_file

    if entry != "student":
        entry = "architecture" if definition.has("architecture") else "model"
    state, shared = _state(module)
    save_file(state, folder / WEIGHTS)
    shutil.copymode(folder / DEFINITION, folder / WEIGHTS)  # it is written for its owner alone
    sample = definition.function("sample")()
    source = _Source(entry, list(history or []), input_names(module, sample), shared)
    (folder / SOURCE_JSON).write_text(
        json.dumps(msgspec.to_builtins(source), indent=1) + "\n", encoding="utf-8"
    )
    _prove(folder, definition, module, sample, source)


def load(package: Package) -> Trainable:
    """Rebuild the module of a package. Raises `StepError` when it holds none."""
    require_module(package)
    with needs_extra("torch", "train PyTorch models"):
        import torch  # noqa: F401  (a sentence now, not an ImportError from the definition)
    return _load(package.source)


def require_module(package: Package, *functions: str) -> None:
    """Refuse a package without a torch module, or whose definition lacks one of `functions`.

    Cheap: nothing is imported, the definition is only parsed.
    """
    if any(record.step.startswith("quantize") for record in package.manifest.lineage):
        raise StepError(
            f"'{package.path}' is quantized, and training needs the float model.",
            hint="train, prune or distill its parent, and quantize the result",
        )
    if _is_program(package) and not (package.source / SOURCE_JSON).is_file():
        raise StepError(
            f"'{package.path}' was made of a torch.export program, which cannot be trained: "
            "dropout and normalization stand in it as they are in eval mode, and no layer can be "
            "taken out.",
            hint="export the module itself, from a definition, and start from that",
        )
    if not (package.source / SOURCE_JSON).is_file():
        raise StepError(
            f"'{package.path}' holds no torch module to train.",
            hint="export it from a definition whose model() returns a torch.nn.Module, or from a "
            "Hugging Face folder",
        )
    require_functions(package, *functions)


def require_functions(package: Package, *functions: str) -> None:
    """Refuse a package whose definition is not there or lacks one of `functions`; it is parsed."""
    if not (package.source / DEFINITION).is_file():
        raise StepError(
            f"'{package.path}' holds no definition to train with.",
            hint="export it from a definition, a .py file with model() and training()",
        )
    found = _names(package.source / DEFINITION)
    for name in functions:
        if name not in found:
            raise StepError(
                f"the definition of '{package.path}' has no {name}().", hint=_HINTS.get(name)
            )


def _is_program(package: Package) -> bool:
    lineage = package.manifest.lineage
    return bool(lineage) and lineage[0].parameters.get("source") == "pt2"


def _names(path: Path) -> set[str]:
    """The names that a Python file binds at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            bound = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(
                part.id
                for target in bound
                for part in ast.walk(target)
                if isinstance(part, ast.Name)
            )
    return names


def _copy(definition: Definition, folder: Path) -> None:
    shutil.copyfile(definition.path, folder / DEFINITION)
    for path in definition.files:
        name = path.relative_to(definition.path.parent)
        if name.as_posix() in (DEFINITION, WEIGHTS, SOURCE_JSON):
            raise DefinitionError(
                f"FILES of '{definition.path}' names '{name}', which the package itself uses.",
                hint="rename it; or leave it out and return the bare network from architecture()",
            )
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)


def _state(module: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The state dict with each tensor once, and name → name of those that share one."""
    kept: dict[str, torch.Tensor] = {}
    shared: dict[str, str] = {}
    owners: dict[tuple[Any, ...], str] = {}
    for name, tensor in module.state_dict().items():
        identity = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        owner = owners.setdefault(identity, name) if tensor.numel() else name
        if owner != name:
            shared[name] = owner
        else:
            # A copy of its own: views of one storage, and channels_last, cannot be written.
            kept[name] = tensor.detach().cpu().contiguous().clone()
    return kept, shared


def distinct(module: torch.nn.Module) -> tuple[str, ...]:
    """The names under which a module's tensors are kept, each tensor once."""
    return tuple(_state(module)[0])


def _load(folder: Path) -> Trainable:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with _no_bytecode():
        definition = Definition.load(folder / DEFINITION)
        try:
            source = msgspec.json.decode((folder / SOURCE_JSON).read_bytes(), type=_Source)
            state = load_file(folder / WEIGHTS)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, SafetensorError) as error:
            raise StepError(f"'{folder}' is damaged: {error}.") from error
        module = definition.function(source.entry)()
    if not isinstance(module, torch.nn.Module):
        raise DefinitionError(
            f"{source.entry}() of '{definition.path}' returns {type(module).__name__}, "
            "not a torch.nn.Module."
        )
    state |= {name: state[owner] for name, owner in source.shared.items()}
    histories.replay(module, source.history, state)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise DefinitionError(
            f"the weights do not fit what {source.entry}() of '{definition.path}' returns: "
            f"{detail[:300]}"
        ) from error
    module.eval()
    return Trainable(definition, module, source.entry, source.history, source.input_names)


def _prove(
    folder: Path, definition: Definition, module: torch.nn.Module, sample: Any, source: _Source
) -> None:
    """Rebuild the module from `folder` alone and compare its answers on the sample."""
    import torch

    inputs = tensors(sample, source.input_names, what="sample()")
    try:
        with _apart_from(definition.path.parent, folder):
            rebuilt = _load(folder).module
            with torch.inference_mode():
                found = _flat(rebuilt(*inputs))
    except DefinitionError as error:
        raise DefinitionError(
            f"the model cannot be rebuilt from its package: {error.message}", hint=_REBUILD
        ) from error
    training = module.training
    module.eval()
    with torch.inference_mode():
        expected = _flat(module(*inputs))
    module.train(training)
    difference = max((_difference(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
    if not difference <= TOLERANCE:
        raise DefinitionError(
            "the model that was rebuilt from its package answers differently "
            f"(relative difference {difference:.1e}): something that it needs is not in its "
            "state dict.",
            hint=_REBUILD,
        )


def _flat(outputs: Any) -> list[torch.Tensor]:
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return [tensor for item in outputs for tensor in _flat(item)]
    return [] if outputs is None else [outputs]


def _difference(expected: torch.Tensor, found: torch.Tensor) -> float:
    if expected.shape != found.shape:
        return float("inf")
    scale = max(float(expected.double().abs().max()) if expected.numel() else 1.0, 1e-6)
    gap = (expected.double() - found.double()).abs()
    return float(gap.max()) / scale if gap.numel() else 0.0


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Keep __pycache__ out of the package: its bytes differ from run to run."""
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


@contextmanager
def _apart_from(original: Path, copy: Path) -> Iterator[None]:
    """Hide the modules beside the original definition, so that a missing FILES entry shows."""
    paths, modules = list(sys.path), dict(sys.modules)
    beside = {
        name
        for name in modules
        if "." not in name and name != "mlserve_cli" and _lies_in(modules[name], original)
    }
    for name in modules:
        if name.partition(".")[0] in beside:
            del sys.modules[name]
    sys.path[:] = [path for path in paths if path != str(original)]
    try:
        with _no_bytecode():
            yield
    finally:
        for name in set(sys.modules) - set(modules):
            if _lies_in(sys.modules[name], copy):
                del sys.modules[name]
        sys.modules.update(modules)
        sys.path[:] = paths
        shutil.rmtree(copy / "__pycache__", ignore_errors=True)


def _lies_in(module: Any, folder: Path) -> bool:
    """Whether a module is folder/NAME.py or folder/NAME/__init__.py."""
    file = getattr(module, "__file__", None)
    if not file:
        return False
    path = Path(file)
    return folder in (path.parent, path.parent.parent if path.stem == "__init__" else None)


_REBUILD = (
    "add architecture(), which returns the bare network, and name the files that the definition "
    "needs in FILES"
)
_HINTS = {
    "training": "training() yields batches of (inputs, targets), once an epoch; add it and export "
    "again",
    "student": "student() returns the smaller network that is to learn from the model; add it and "
    "export again",
}
