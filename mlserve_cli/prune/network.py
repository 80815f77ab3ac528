"""One pruning of a network: whole blocks first, then heads, then channels; each checked.

survey = Survey.of(module, example, …)      what can go, ranked; what cannot, with the reason
survey.prune(ratio)                         a smaller network, for as many ratios as are tried
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import StepError
from mlserve_cli.prune import blocks, channels, heads, masks, tracing
from mlserve_cli.prune.channels import Cut, Group
from mlserve_cli.prune.heads import HeadCut
from mlserve_cli.prune.importance import Gradients
from mlserve_cli.training import history

if TYPE_CHECKING:
    import torch

    from mlserve_cli.prune.blocks import Block
    from mlserve_cli.prune.heads import Attention

FLOOR = 0.1
"""The share of its channels that a layer keeps at least when all layers are ranked together: one
that is left with next to nothing lets nothing through, however small its weights are."""

Shares = Mapping[str, float]
"""Name of a layer → the ratio for its group, where layers differ."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """The smaller network, and what changed.

    layers, dropped, narrow: for the history. cuts, head_cuts: what went. left: what did not go,
    with the reason.
    """

    module: torch.nn.Module
    layers: history.Sizes
    cuts: tuple[Cut, ...]
    left: dict[str, str]
    head_cuts: tuple[HeadCut, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    narrow: tuple[str, ...] = ()

    def entry(self) -> dict[str, Any]:
        """What the pruning history says of it."""
        return {
            "layers": self.layers,
            **({"skipped": dict(self.dropped)} if self.dropped else {}),
            **({"narrow": list(self.narrow)} if self.narrow else {}),
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """A network with what can be taken out of it.

    before: its sizes before blocks were dropped. module: without those blocks.
    attention: modules with the importance of each head. original: the numbers of channels and
    heads that ratios are meant of, where the network was pruned before.
    """

    module: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    before: history.Sizes
    dropped: tuple[Block, ...]
    groups: tuple[Group, ...]
    attention: tuple[tuple[Attention, tuple[float, ...]], ...]
    left: Mapping[str, str]
    scope: str = "layer"
    head_ratio: float | None = None
    original: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        module: torch.nn.Module,
        example: tuple[torch.Tensor, ...],
        *,
        importance: str = "l2",
        gradients: Gradients | None = None,
        scope: str = "layer",
        head_ratio: float | None = None,
        drop_blocks: int = 0,
        original: Mapping[str, int] | None = None,
    ) -> Survey:
        """Trace the network, rank all that can go, and try once that it really can.

        head_ratio: of the heads, where it is another than of the channels.
        Raises `StepError` when the network cannot be traced, or has too few blocks.
        """
        before = history.sizes(module)
        dropped, left = _drop(module, example, drop_blocks)
        module = tracing.duplicate(module)
        for block in dropped:
            history.skip(module, block.name, block.returns)
        ranked = tracing.duplicate(module)
        if gradients is not None:
            gradients(ranked)
        found = heads.find(module)
        attention, untold = _working(module, example, found)
        left |= untold
        groups, unfit = channels.survey(
            module,
            example,
            ranked_by=importance,
            gradients=gradients,
            attention=heads.layers(found),
        )
        smallest = [group.cut(group.kept(1.0)) for group in groups]
        _, _, wrong = channels.that_go(module, example, smallest)
        return cls(
            module=module,
            example=example,
            before=before,
            dropped=tuple(dropped),
            groups=tuple(group for group in groups if group.layer not in wrong),
            attention=tuple(
                (each, tuple(heads.scores(ranked, each, importance))) for each in attention
            ),
            left=left | unfit | wrong,
            scope=scope,
            head_ratio=head_ratio,
            original=original or {},
        )

    @property
    def numbers(self) -> dict[str, int]:
        """Channels or heads of everything that can be cut, by name."""
        return {group.layer: group.channels for group in self.groups} | {
            each.name: each.heads for each, _ in self.attention
        }

    def cuts(self, ratio: float, shares: Shares | None = None) -> list[Cut]:
        """The channels that go at `ratio`; `shares` say another one for some layers."""
        stay = (
            self._ranked_together(ratio)
            if self.scope == "global" and shares is None
            else {
                group.layer: group.kept(
                    (shares or {}).get(group.layer, ratio), of=self.original.get(group.layer)
                )
                for group in self.groups
            }
        )
        return [
            group.cut(stay[group.layer])
            for group in self.groups
            if stay[group.layer] < group.channels
        ]

    def head_cuts(self, ratio: float, shares: Shares | None = None) -> list[HeadCut]:
        """The heads that go: in each attention module the least important."""
        cuts = []
        for found, scores in self.attention:
            wanted = (shares or {}).get(found.name, ratio)
            wanted = wanted if self.head_ratio is None else self.head_ratio
            stay = min(found.heads, heads.kept(self.original.get(found.name, found.heads), wanted))
            order = [head for _, head in sorted(zip(scores, range(found.heads), strict=True))]
            gone = tuple(sorted(order[: found.heads - stay]))
            if gone:
                cuts.append(HeadCut(found, gone))
        return cuts

    def takes(self, ratio: float, shares: Shares | None = None) -> bool:
        """Whether anything would go at `ratio`."""
        return bool(self.cuts(ratio, shares) or self.head_cuts(ratio, shares) or self.dropped)

    def prune(self, ratio: float, *, shares: Shares | None = None, check: bool = True) -> Pruned:
        """Take `ratio` out. Raises `StepError` when that takes nothing.

        check: compare with the network in which all that went is silent.
        """
        cuts, head_cuts = self.cuts(ratio, shares), self.head_cuts(ratio, shares)
        left = dict(self.left)
        if not cuts and not head_cuts and not self.dropped:
            self._refuse(ratio)
        for group in self.groups:
            if group.kept(ratio) >= group.channels:
                left.setdefault(group.layer, f"{group.channels} channels")
        narrowed = tracing.duplicate(self.module)
        narrow = tuple(cut.attention.name for cut in head_cuts if heads.take_out(narrowed, cut))
        if check:
            smaller, cuts, wrong = channels.that_go(narrowed, self.example, cuts)
            left |= wrong
        else:
            smaller = channels.take_out(narrowed, self.example, cuts, check=False)
        if smaller is None:
            if not head_cuts and not self.dropped:
                self._refuse(ratio)
            smaller = narrowed
        return Pruned(
            smaller,
            history.changes(self.before, history.sizes(smaller)),
            tuple(cuts),
            left,
            tuple(head_cuts),
            {block.name: block.returns for block in self.dropped},
            narrow,
        )

    def _refuse(self, ratio: float) -> None:
        reasons = "; ".join(
            [f"{name}: {reason}" for name, reason in self.left.items()]
            + [f"{group.layer}: {group.channels} channels" for group in self.groups]
        )
        raise StepError(
            f"nothing can be pruned at ratio {ratio:g}"
            + (f" ({reasons})." if reasons else ": no layer has inner channels."),
            hint=f"channels stay in multiples of {channels.MULTIPLE}; a larger --ratio may find "
            "some",
        )

    def _ranked_together(self, ratio: float) -> dict[str, int]:
        """Layer → how many channels stay, when those of all layers are ranked as one list."""
        totals = {
            group.layer: self.original.get(group.layer, group.channels) for group in self.groups
        }
        ranked = sorted((score, group.layer) for group in self.groups for score in group.scores)
        already = sum(totals.values()) - len(ranked)
        gone = dict.fromkeys(totals, 0)
        for _, layer in ranked[: max(0, round(sum(totals.values()) * ratio) - already)]:
            gone[layer] += 1
        stay = {}
        for group in self.groups:
            share = 1 - (group.channels - gone[group.layer]) / totals[group.layer]
            stay[group.layer] = group.kept(min(share, 1 - FLOOR), of=totals[group.layer])
        return stay


def prune(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], *, ratio: float, **choices: Any
) -> Pruned:
    """Survey a network and take the least important `ratio` out of it.

    `module` stays as it is. The layers that make the network's outputs are never cut. Raises
    `StepError` when the network cannot be traced or nothing in it can be pruned.
    """
    return Survey.of(module, example, **choices).prune(ratio)


def _drop(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], count: int
) -> tuple[list[Block], dict[str, str]]:
    if not count:
        return [], {}
    found = blocks.find(module, example)
    dropped, left = blocks.least_important(module, example, found, count)
    if len(dropped) < count:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left.items())
        raise StepError(
            f"{count} blocks should go, and {len(dropped)} can"
            + (f" ({reasons})." if reasons else "."),
            hint="a block that can go adds to its input without changing its shape, and lies in "
            "an nn.Sequential or an nn.ModuleList",
        )
    return dropped, left


def _working(
    module: torch.nn.Module, example: tuple[torch.Tensor, ...], found: list[Attention]
) -> tuple[list[Attention], dict[str, str]]:
    """The attention modules whose first head can go without a trace of it, and the others."""
    good: list[Attention] = []
    left: dict[str, str] = {}
    for attention in found:
        if attention.heads < 2:
            left[attention.name] = "one head"
            continue
        cut = HeadCut(attention, (0,))
        masked, smaller = tracing.duplicate(module), tracing.duplicate(module)
        heads.silence(masked, cut)
        heads.take_out(smaller, cut)
        try:
            same = masks.alike(tracing.answers(masked, example), tracing.answers(smaller, example))
        except Exception:  # the user's forward() may raise anything
            same = False
        if same:
            good.append(attention)
        else:
            left[attention.name] = "its forward() counts on the number of its heads"
    return good, left
