"""What a network answers, its dependency graph, and which line of the user's code is in the way."""

from __future__ import annotations

import copy
import sysconfig
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError, first_line

if TYPE_CHECKING:
    import torch

_OURS = Path(__file__).parents[1]


@contextmanager
def graph(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> Iterator[Any]:
    """Torch-Pruning's dependency graph of `module`, read off the gradients of one forward pass.

    Raises `StepError` that names the line of the user's code where forward() fails.
    """
    import torch_pruning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it handles, and our checks see the rest
        for parameter in module.parameters():
            parameter.requires_grad_(True)
        try:
            module(*example)  # Torch-Pruning would try again in another form, and tell of that
            found = torch_pruning.DependencyGraph().build_dependency(module, example_inputs=example)
        except Exception as error:
            raise StepError(
                f"the network cannot be traced for pruning{user_line(error)}: {first_line(error)}",
                hint="forward() must be differentiable, with tensors in and tensors out",
            ) from error
        yield found


def user_line(error: BaseException) -> str:
    """` at line 12 of 'model.py'`: the innermost frame that is neither a library's nor ours."""
    libraries = [Path(sysconfig.get_paths()[name]) for name in ("purelib", "platlib", "stdlib")]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if not path.is_absolute() or any(
            path.is_relative_to(folder) for folder in (*libraries, _OURS)
        ):
            continue
        return f" at line {frame.lineno} of '{path.name}'"
    return ""


def answers(module: torch.nn.Module, example: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    """What a network answers in eval mode, tensor by tensor."""
    import torch

    with torch.no_grad():
        return leaves(module.eval()(*example))


def leaves(value: Any) -> list[Any]:
    """The tensors in an answer of any form."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value] if hasattr(value, "shape") else []


def duplicate(module: torch.nn.Module) -> torch.nn.Module:
    """A copy in eval mode."""
    return copy.deepcopy(module).eval()
