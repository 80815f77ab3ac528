"""Learning from what the teacher holds inside, beside what it answers.

Hints (Romero et al., "FitNets", 2015): a layer of the student, through a projector that learns
along, comes near a layer of the teacher. The projector (a 1×1 convolution for pictures, a linear
layer else) is thrown away after.

Attention: of pictures where a layer looks, the sum of its channels' squares over the places
(Zagoruyko and Komodakis, 2017); of sequences how the tokens relate to one another, the softened
products of their queries, keys and values in the last block (Wang et al., "MiniLMv2", 2021), or of
its hidden states where there are none to be had. Widths may differ: relations have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlserve_cli.distill import features
from mlserve_cli.distill.features import Pair, Watch
from mlserve_cli.errors import StepError

if TYPE_CHECKING:
    import torch

    from mlserve_cli.training.loop import Loss
    from mlserve_cli.training.soft import Answer

HEADS = (12, 8, 6, 4, 3, 2, 1)
"""Numbers of relation heads to choose from, the most that divides both widths."""

PROJECTIONS = (
    ("query", "key", "value"),
    ("q_proj", "k_proj", "v_proj"),
    ("q_lin", "k_lin", "v_lin"),
)
"""How attention layers call the three linear layers that MiniLMv2 compares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which layers teach, and what the two parts weigh beside the answers' loss."""

    hints: tuple[Pair, ...] = ()
    attention: tuple[Pair, ...] = ()
    hints_weight: float = 0.0
    attention_weight: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.hints or self.attention)

    def sentence(self) -> str:
        """For a person: which layers were paired."""
        parts = []
        for word, pairs in (("hints", self.hints), ("attention", self.attention)):
            if pairs:
                names = ", ".join(f"{pair.teacher} → {pair.student}" for pair in pairs)
                parts.append(f"{word} from {names}")
        return "; ".join(parts)


def plan(
    teacher: torch.nn.Module,
    student: torch.nn.Module,
    example: tuple[torch.Tensor, ...],
    *,
    hints: str | None,
    hints_weight: float,
    attention: float,
) -> Plan:
    """Choose the layers. `hints` is "auto", a list of pairs, or None; `attention` 0 for none.

    Raises `StepError` where no layers fit, or the named ones have different sizes.
    """
    if hints is None and not attention:
        return Plan()
    ours = features.shapes(teacher, example)
    theirs = features.shapes(student, example)
    found = features.matched(ours, theirs)
    chosen = found if hints in (None, "auto") else features.named(hints or "")
    if not chosen or (attention and not found and hints in (None, "auto")):
        raise StepError(
            "no layer of the student has a size that a layer of the teacher has, so none can "
            "learn from another.",
            hint="name them with --hints TEACHER_LAYER=STUDENT_LAYER, or leave hints and attention "
            "out",
        )
    for pair in chosen:
        _check(pair, ours, theirs)
    return Plan(
        hints=() if hints is None else tuple(chosen),
        attention=tuple(_looking(chosen, ours, theirs)) if attention else (),
        hints_weight=hints_weight,
        attention_weight=attention,
    )


class Guided:
    """A student that is trained with a plan: the module for the loop, the lessons and the loss.

    Use it as a context: the hooks are gone after, and the projectors with them.
    """

    def __init__(
        self,
        plan: Plan,
        teacher: torch.nn.Module,
        student: torch.nn.Module,
        example: tuple[torch.Tensor, ...],
        names: tuple[str, ...],
    ) -> None:
        self._plan = plan
        pairs = (*plan.hints, *plan.attention)
        self._theirs = Watch(teacher, [pair.teacher for pair in pairs])
        self._ours = Watch(student, [pair.student for pair in pairs])
        ours, theirs = features.shapes(student, example), features.shapes(teacher, example)
        self.module = _module(
            student,
            self._ours,
            [_projector(ours[pair.student], theirs[pair.teacher]) for pair in plan.hints],
            [pair.student for pair in plan.hints],
            [pair.student for pair in plan.attention],
        )
        self._ours.take()
        self._theirs.take()
        self._mask = _mask_of(names, example)

    def __enter__(self) -> Guided:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()

    def answer(self, asked: Answer) -> Answer:
        """What `asked` answers, with what the watched layers held and the mask of the tokens."""

        def answer(inputs: tuple[torch.Tensor, ...]) -> Any:
            first = asked(inputs)
            held = self._theirs.take()
            hints = tuple(held[pair.teacher].float() for pair in self._plan.hints)
            looks = tuple(held[pair.teacher].float() for pair in self._plan.attention)
            mask = () if self._mask is None else (inputs[self._mask],)
            return first, hints, looks, mask

        return answer

    def loss(self, base: Loss) -> Loss:
        """`base` for the answers, and the plan's own losses beside it."""
        plan = self._plan

        def loss(outputs: Any, lesson: Any) -> torch.Tensor:
            targets, (answer, hints, looks, mask) = lesson
            given, projected, held = outputs
            total = base(given, (targets, answer))
            known = mask[0] if mask else None
            for ours, theirs in zip(projected, hints, strict=True):
                part = hint_loss(ours, theirs, known)
                total = total + part * plan.hints_weight / len(hints)
            for ours, theirs in zip(held, looks, strict=True):
                part = attention_loss(ours, theirs, known)
                total = total + part * plan.attention_weight / len(looks)
            return total

        return loss


def hint_loss(
    ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """The squared difference by the teacher's own mean square: 1 for a student of zeros.

    `mask` is 1 where a token of a sequence counts.
    """
    if mask is not None and ours.ndim == 3:
        counts = mask.to(ours.dtype).unsqueeze(-1)
        ours, theirs = ours * counts, theirs * counts
    return (ours - theirs).square().mean() / theirs.square().mean().clamp(min=1e-12)


def attention_loss(
    ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Where pictures are looked at, or how tokens relate; `mask` is 1 where a token counts."""
    import torch.nn.functional as F  # noqa: N812  (its usual name)

    if ours.ndim == 4:
        maps = [F.normalize(each.square().mean(1).flatten(1), dim=1) for each in (ours, theirs)]
        return (maps[0] - maps[1]).square().sum(1).mean()
    heads = next(
        each for each in HEADS if ours.shape[-1] % each == 0 and theirs.shape[-1] % each == 0
    )
    mine, wanted = (_relations(each, heads, mask) for each in (ours, theirs))
    divergence = (wanted.exp() * (wanted - mine)).sum(-1)  # (batch, heads, tokens)
    if mask is None:
        return divergence.mean()
    counts = mask.to(divergence.dtype)[:, None, :].expand_as(divergence)
    return (divergence * counts).sum() / counts.sum().clamp(min=1)


def _relations(held: torch.Tensor, heads: int, mask: torch.Tensor | None) -> torch.Tensor:
    """(batch, tokens, width) → log of the softened products, (batch, heads, tokens, tokens)."""
    batch, tokens, width = held.shape
    split = held.view(batch, tokens, heads, width // heads).transpose(1, 2)
    products = split @ split.transpose(-1, -2) / (width // heads) ** 0.5
    if mask is not None:
        # Not infinity: where both are none at all, their difference would be no number.
        products = products.masked_fill(mask[:, None, None, :] == 0, -1e4)
    relations: torch.Tensor = products.log_softmax(-1)
    return relations


def _looking(chosen: Sequence[Pair], ours: dict[str, Any], theirs: dict[str, Any]) -> list[Pair]:
    """Every pair for pictures; of sequences the last block's queries, keys and values."""
    last = chosen[-1]
    if len(ours[last.teacher]) == 4:
        return list(chosen)
    left, right = _projections(ours, last.teacher), _projections(theirs, last.student)
    if left and right:
        return [Pair(a, b) for a, b in zip(left, right, strict=True)]
    return [last]


def _projections(found: dict[str, Any], block: str) -> list[str]:
    for words in PROJECTIONS:
        names = [
            name
            for word in words
            for name in found
            if name.startswith(block + ".") and name.endswith(f".{word}")
        ]
        if len(names) == len(words):
            return names
    return []


def _check(pair: Pair, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name, found, whose in ((pair.teacher, ours, "teacher"), (pair.student, theirs, "student")):
        if name not in found:
            raise StepError(
                f"the {whose} has no layer '{name}' that answers numbers.",
                hint=f"it has {', '.join(list(found)[-12:])}",
            )
    left, right = ours[pair.teacher], theirs[pair.student]
    same = left[2:] == right[2:] if len(left) == 4 else left[1:-1] == right[1:-1]
    if len(left) != len(right) or len(left) < 2 or not same:
        raise StepError(
            f"'{pair.teacher}' of the teacher answers {left} and '{pair.student}' of the student "
            f"{right}: only their channels may differ.",
            hint="pair layers of one size, or let --hints auto find them",
        )


def _projector(ours: tuple[int, ...], theirs: tuple[int, ...]) -> torch.nn.Module:
    import torch

    if len(ours) == 4:
        return torch.nn.Conv2d(ours[1], theirs[1], 1)
    return torch.nn.Linear(ours[-1], theirs[-1])


def _mask_of(names: tuple[str, ...], example: tuple[torch.Tensor, ...]) -> int | None:
    """Which input says where a sequence has tokens."""
    for index, (name, tensor) in enumerate(zip(names, example, strict=True)):
        if "mask" in name and tensor.ndim == 2:
            return index
    return None


def _module(
    student: torch.nn.Module,
    watch: Watch,
    projectors: list[torch.nn.Module],
    hints: list[str],
    looks: list[str],
) -> torch.nn.Module:
    """The student with its projectors: outputs, projected hints, what is compared as attention."""
    import torch

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student = student
            self.projectors = torch.nn.ModuleList(projectors)

        def forward(self, *inputs: torch.Tensor) -> Any:
            outputs = self.student(*inputs)
            held = watch.take()
            if not self.training:  # as the validation wants it
                return outputs
            projected = tuple(
                projector(held[name])
                for projector, name in zip(self.projectors, hints, strict=True)
            )
            return outputs, projected, tuple(held[name] for name in looks)

    return Module()
