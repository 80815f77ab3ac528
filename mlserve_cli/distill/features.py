"""What layers hold while a network answers, and which layers of two networks belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Pair:
    """A layer of the teacher and one of the student, by their names in the modules."""

    teacher: str
    student: str


class Watch:
    """Remembers what some layers answer, until `take`; to be closed before anything is traced."""

    def __init__(self, module: torch.nn.Module, names: Sequence[str]) -> None:
        layers = dict(module.named_modules())
        for name in names:
            if name not in layers:
                raise StepError(
                    f"there is no layer '{name}' in {type(module).__name__}.",
                    hint=f"it has {_some(layers)}",
                )
        self._names = tuple(dict.fromkeys(names))
        self._held: dict[str, torch.Tensor] = {}
        self._handles = [
            layers[name].register_forward_hook(self._keep(name)) for name in self._names
        ]

    def take(self) -> dict[str, torch.Tensor]:
        """What they answered since the last time. Raises `StepError` where one did not run."""
        held, self._held = self._held, {}
        for name in self._names:
            if name not in held:
                raise StepError(f"the layer '{name}' answers no tensor when the network runs.")
        return held

    def close(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()

    def _keep(self, name: str) -> Callable[[Any, Any, Any], None]:
        def hook(_layer: Any, _inputs: Any, outputs: Any) -> None:
            found = _tensor(outputs)
            if found is not None:
                self._held[name] = found

        return hook


def shapes(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...]
) -> dict[str, tuple[int, ...]]:
    """The shape that each layer inside answers, in the order in which they finish."""
    import torch

    found: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Any:
        def hook(_layer: Any, _inputs: Any, outputs: Any) -> None:
            tensor = _tensor(outputs)
            if tensor is not None and tensor.is_floating_point():
                found.pop(name, None)  # one that runs again finishes again
                found[name] = tuple(tensor.shape)

        return hook

    handles = [
        layer.register_forward_hook(watch(name)) for name, layer in module.named_modules() if name
    ]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            module(*example)
    finally:
        for handle in handles:
            handle.remove()
        module.train(training)
    return found


def matched(teacher: dict[str, tuple[int, ...]], student: dict[str, tuple[int, ...]]) -> list[Pair]:
    """Layers of like places: the last of each picture size; blocks of a sequence, spread evenly.

    Empty where no size occurs in both.
    """
    pairs = [
        Pair(ours[-1], theirs[-1])
        for size, ours in _by_size(teacher).items()
        if (theirs := _by_size(student).get(size))
    ]
    if pairs:
        return pairs
    ours, theirs = _blocks(teacher), _blocks(student)
    if not ours or not theirs or teacher[ours[-1]][1] != student[theirs[-1]][1]:
        return []
    return [
        Pair(ours[-(-(index + 1) * len(ours) // len(theirs)) - 1], name)
        for index, name in enumerate(theirs[: len(ours)])
    ]


def named(text: str) -> list[Pair]:
    """`stage2=layer1,stage3=layer2`: the teacher's layer, then the student's.

    Raises `StepError` for what is no such list.
    """
    pairs = []
    for part in text.split(","):
        left, separator, right = (word.strip() for word in part.partition("="))
        if not left or not separator or not right:
            raise StepError(
                f"'{part.strip()}' is no pair of layers.",
                hint="--hints TEACHER_LAYER=STUDENT_LAYER,…, or --hints auto",
            )
        pairs.append(Pair(left, right))
    return pairs


def _by_size(found: dict[str, tuple[int, ...]]) -> dict[tuple[int, ...], list[str]]:
    sizes: dict[tuple[int, ...], list[str]] = {}
    for name, shape in found.items():
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            sizes.setdefault(shape[2:], []).append(name)
    return sizes


def _blocks(found: dict[str, tuple[int, ...]]) -> list[str]:
    """The numbered layers of the outermost stack that answer sequences; else the last of all."""
    sequences = [name for name, shape in found.items() if len(shape) == 3]
    numbered = [name for name in sequences if name.rpartition(".")[2].isdigit()]
    if not numbered:
        return sequences[-1:]
    depth = min(name.count(".") for name in numbered)
    return [name for name in numbered if name.count(".") == depth]


def _tensor(outputs: Any) -> Any:
    """The first tensor of what a layer answers."""
    if isinstance(outputs, dict):
        outputs = tuple(outputs.values())
    if isinstance(outputs, (tuple, list)):
        return _tensor(outputs[0]) if outputs else None
    return outputs if hasattr(outputs, "is_floating_point") else None


def _some(layers: dict[str, Any]) -> str:
    names = [name for name in layers if name]
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
