"""`mlserve prune`: fewer channels, heads and blocks, then training goes on."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.graph import successor
from mlserve_cli.package.definition import Definition
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.prune import importance, schedule, sensitivity, speed, target
from mlserve_cli.prune.network import Pruned, Survey
from mlserve_cli.prune.target import Target
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.training import (
    history,
    randomness,
    size,
    soft,
    source,
    validation,
)
from mlserve_cli.training.checkpoint import NO_CHECKPOINTS, Checkpoints
from mlserve_cli.training.inputs import batches, tensors
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import GENTLER, TrainingOptions
from mlserve_cli.training.variant import prefixed

if TYPE_CHECKING:
    import torch

    from mlserve_cli.training.curve import History
    from mlserve_cli.training.loop import Loss, Teach

LIBRARIES = ("torch", "torch-pruning", "onnx", "onnxscript")

SCOPES = ("layer", "global", "sensitivity")
RECOVERIES = ("parent", "targets")

TEMPERATURE, ALPHA = 4.0, 0.9
"""Of learning from the parent's answers (Hinton et al., 2015); as `mlserve distill` has them."""

SENSITIVITY_ROWS = 256
"""Rows on which layers are compared: enough for the order of their errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStep:
    """Takes the least important channels, heads and blocks out, then fine-tunes with training().

    One goal at most, without any half of the channels of every group of coupled layers:
    ratio: share of the channels of every group, and of the heads of every attention.
    macs, parameters: share of them to keep. speedup: times faster than the parent at batch 1, on
    this machine; target_ms: milliseconds at batch 1. Both are measured before any training.

    heads: share of the attention heads, where it is another than of the channels; 0 keeps all.
    drop_blocks: whole residual blocks or encoder layers to drop before.
    importance: "l1", "l2", "taylor" or "bn-scale".
    scope: "layer" takes the same share of every layer, "global" ranks all channels together,
    "sensitivity" takes shares with which every layer makes the same error.
    iterations: that many prunings, with fine-tuning after each.
    epochs, learning_rate: of the fine-tuning; by default half the epochs of TRAINING, at a fifth
    of its rate, which recovered best on the digits sample.
    recover: "parent" learns from the unpruned network's answers beside the targets, "targets" from
    those alone.
    checkpoints: where an interrupted fine-tuning can go on.
    """

    ratio: float | None = None
    macs: float | None = None
    parameters: float | None = None
    speedup: float | None = None
    target_ms: float | None = None
    heads: float | None = None
    drop_blocks: int = 0
    importance: str = "l2"
    scope: str = "layer"
    iterations: int = 1
    epochs: int | None = None
    learning_rate: float | None = None
    recover: str = "parent"
    seed: int = 0
    checkpoints: Checkpoints = NO_CHECKPOINTS
    name: str = "prune"

    @property
    def target(self) -> Target:
        """The one goal. Raises `StepError` for several, or for one out of range."""
        given: list[tuple[target.Kind, float | None]] = [
            ("ratio", self.ratio),
            ("macs", self.macs),
            ("parameters", self.parameters),
            ("speedup", self.speedup),
            ("target_ms", self.target_ms),
        ]
        named = [Target(kind, value) for kind, value in given if value is not None]
        if len(named) > 1:
            first, second = (f"--{each.kind.replace('_', '-')}" for each in named[:2])
            raise StepError(
                f"{first} and {second} are two goals, and one can be aimed at.",
                hint="take the one that matters, and see in the verdict what became of the other",
            )
        found = named[0] if named else Target("ratio", 0.5)
        found.check()
        return found

    def requires(self, parent: Package) -> None:
        """Refuse parameters out of range, and a package that cannot be trained."""
        _ = self.target
        for value, allowed, name in (
            (self.importance, importance.KINDS, "importance"),
            (self.scope, SCOPES, "scope"),
            (self.recover, RECOVERIES, "recover"),
        ):
            if value not in allowed:
                raise StepError(f"'{value}' is no {name}.", hint=f"it can be {', '.join(allowed)}")
        if self.heads is not None and not 0 <= self.heads < 1:
            raise StepError(
                f"the share of heads is {self.heads:g}; it must be at least 0 and less than 1.",
                hint="--heads 0 keeps all heads",
            )
        if not 1 <= self.iterations <= 20:
            raise StepError(
                f"{self.iterations} iterations were asked for; it can be 1 to 20.",
                hint="3 are many: each is followed by training",
            )
        if self.drop_blocks < 0:
            raise StepError(f"{self.drop_blocks} blocks cannot be dropped.", hint="0 drops none")
        source.require_module(parent, "training")

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Prune, fine-tune, and write the smaller network with what further training needs."""
        with needs_extra("torch", "prune"):
            import torch_pruning  # noqa: F401  (a sentence now, not an ImportError later)
        work = _Work.begin(self, parent, progress)
        module, ratio = work.run()
        was, now = size.measure(work.whole, work.example), size.measure(module, work.example)
        progress.stage("writing the pruned model")
        measured: list[dict[str, Any]] = []
        model = draft.serve / parent.manifest.model
        successor.write(module, parent, model)
        if self.target.kind in ("speedup", "target_ms"):
            timing = speed.beside(model, parent)
            progress.say(
                f"measured again, trained: {timing.candidate_ms:.3g} ms, parent "
                f"{timing.parent_ms:.3g} ms, {timing.speedup:.2f} times faster at batch 1"
            )
            measured.append(self.target.facts(timing))
        source.write(
            draft.source,
            work.definition,
            module,
            entry=work.entry,
            history=[*work.history, {"ratio": ratio, **work.changes(module)}],
        )
        return Change(
            variant=prefixed("pruned", parent.manifest.variant),
            parameters={
                "ratio": ratio,
                **({} if self.target.kind == "ratio" else {self.target.kind: self.target.value}),
                **self._choices(),
                "recover": self.recover,
                "epochs": work.options.epochs,
                "learning_rate": work.options.peak,
                "macs_before": was.macs,
                "macs": now.macs,
                "parameters_before": was.parameters,
                "parameters": now.parameters,
                **work.ended(),
            },
            seed=self.seed,
            libraries=LIBRARIES,
            evidence=(*(each.facts() for each in work.histories), *measured),
        )

    def ensures(self, parent: Package, draft: Draft, manifest: Manifest) -> None:
        """The network is smaller, and ONNX answers as the rebuilt torch module does."""
        facts = manifest.lineage[-1].parameters
        for what in ("macs", "parameters"):
            if not facts[what] < facts[f"{what}_before"]:
                raise StepError(
                    f"pruning left {facts[what]:,} {what} of {facts[f'{what}_before']:,}.",
                    hint="a larger --ratio takes more channels out",
                )
        rebuilt = source.load(Package(draft.path, manifest)).module
        successor.check(rebuilt, parent, draft, manifest)

    def _choices(self) -> dict[str, Any]:
        """Those that are not at their defaults, for the lineage."""
        given = {
            "importance": (self.importance, "l2"),
            "scope": (self.scope, "layer"),
            "iterations": (self.iterations, 1),
            "heads": (self.heads, None),
            "drop_blocks": (self.drop_blocks, 0),
        }
        return {name: value for name, (value, usual) in given.items() if value != usual}


@dataclass(slots=True, kw_only=True)
class _Work:
    """One run of the step: the network as it gets smaller, and what went so far."""

    step: PruneStep
    parent: Package
    progress: Progress
    definition: Definition
    names: tuple[str, ...]
    entry: str
    history: list[dict[str, Any]]
    whole: torch.nn.Module
    example: tuple[torch.Tensor, ...]
    options: TrainingOptions
    loss: Loss
    dropped: dict[str, int] = field(default_factory=dict)
    narrow: list[str] = field(default_factory=list)
    histories: list[History] = field(default_factory=list)

    @classmethod
    def begin(cls, step: PruneStep, parent: Package, progress: Progress) -> _Work:
        progress.stage("tracing and pruning")
        before = source.load(parent)
        full = TrainingOptions.of(before.definition)
        options = TrainingOptions.of(
            before.definition,
            epochs=-(-full.epochs // 2) if step.epochs is None else step.epochs,
            learning_rate=full.peak / GENTLER if step.learning_rate is None else step.learning_rate,
        )
        example = tensors(
            golden.read(parent.serve).inputs, before.input_names, what="the golden rows"
        )
        return cls(
            step=step,
            parent=parent,
            progress=progress,
            definition=before.definition,
            names=before.input_names,
            entry=before.entry,
            history=before.history,
            whole=before.module,
            example=example,
            options=options,
            loss=task_loss(before.definition, options),
        )

    def run(self) -> tuple[torch.nn.Module, float]:
        """Prune and train, as often as was asked for; the network and the ratio of the last.

        A fine-tuning that diverges is the last one.
        """
        steps = self.step.iterations
        goal, ratio = self.step.target, 0.0
        original: dict[str, int] = {}
        module, teach, loss = self.whole, self._teach(), self._loss()
        given, held_out = validation.choose(
            self.definition,
            self.names,
            self.options,
            batches=batches(self.definition, self.names),
            outputs=[spec.name for spec in self.parent.manifest.outputs],
        )
        parts = zip(
            schedule.fractions(steps), schedule.epochs(self.options.epochs, steps), strict=True
        )
        for number, (fraction, epochs) in enumerate(parts, start=1):
            survey = self._survey(module, number, fraction, original)
            original = original or survey.numbers
            whole_size = size.measure(self.whole, self.example)
            sharing = self._sharing(survey)
            if goal.kind in ("speedup", "target_ms"):
                # From here on its multiplications are the goal: they hold still.
                goal = self._timed(survey, whole_size, goal, sharing)
            ratio = self._ratio(survey, whole_size, goal, fraction, sharing)
            if number > 1 and not survey.takes(ratio, sharing(ratio)):
                # Channels go in multiples, and the steps before took what this one would have.
                self.progress.say(f"step {number} has nothing more to take; it trains what is left")
            else:
                pruned = survey.prune(ratio, shares=sharing(ratio))
                self._note(pruned, whole_size)
                module = pruned.module
            found = train(
                module,
                given,
                options=replace_epochs(self.options, epochs),
                loss=loss,
                seed=self.step.seed,
                progress=self.progress,
                title="fine-tuning" if steps == 1 else f"fine-tuning {number} of {steps}",
                validation=held_out,
                keeper=self.step.checkpoints.stage(f"fine-tuning-{number}", **self._about()),
                teach=teach,
            )
            self.histories.append(found)
            if found.diverged:
                break
        return module, ratio

    def ended(self) -> dict[str, Any]:
        """What the lineage says of trainings that ended before their last epoch."""
        return {key: value for each in self.histories for key, value in each.lineage().items()}

    def changes(self, module: torch.nn.Module) -> dict[str, Any]:
        """What the history says of all prunings together."""
        return Pruned(
            module,
            history.changes(history.sizes(self.whole), history.sizes(module)),
            (),
            {},
            (),
            self.dropped,
            tuple(dict.fromkeys(self.narrow)),
        ).entry()

    def _timed(
        self, survey: Survey, whole: size.Size, goal: Target, sharing: target.Sharing
    ) -> Target:
        """The share of the multiplications that is as fast as `goal` asks, by measurement.

        It is kept beside the checkpoints: measured once more it would be another network.
        """

        def measure() -> float:
            found = target.timed(survey, whole, goal, self.parent, self.progress, sharing)
            if found.timing is not None:
                self.progress.say(
                    f"at ratio {found.ratio:.3f} the untrained network takes "
                    f"{found.timing.candidate_ms:.3g} ms, parent "
                    f"{found.timing.parent_ms:.3g} ms: {found.timing.speedup:.2f} times faster"
                )
            return found.size.macs / whole.macs

        asked = {**self._about(), "target": [goal.kind, goal.value]}
        return Target("macs", self.step.checkpoints.measured("share-of-macs", measure, **asked))

    def _about(self) -> dict[str, Any]:
        """What a checkpoint must agree with beside the weights and the options."""
        goal = self.step.target
        return {
            "parent": self.parent.manifest.digest,
            "goal": f"--{goal.kind.replace('_', '-')} {goal.value:g}",
            "recover": self.step.recover,
            **self.step._choices(),
        }

    def _survey(
        self, module: torch.nn.Module, number: int, fraction: float, original: dict[str, int]
    ) -> Survey:
        heads = self.step.heads
        return Survey.of(
            module,
            tuple(tensor[:2] for tensor in self.example),
            importance=self.step.importance,
            gradients=importance.gradients(batches(self.definition, self.names), self.loss)
            if self.step.importance == "taylor"
            else None,
            scope=self.step.scope,
            head_ratio=None if heads is None else 1 - (1 - heads) ** fraction,
            drop_blocks=self.step.drop_blocks if number == 1 else 0,
            original=original,
        )

    def _sharing(self, survey: Survey) -> target.Sharing:
        if self.step.scope != "sensitivity":
            return lambda _: None
        randomness.seed(0)  # the same rows each time, where calibration() draws them
        units = sensitivity.measure(
            survey, rows_of(self.definition, self.names, self.example), with_blocks=False,
            progress=self.progress,
        )  # fmt: skip
        return lambda ratio: sensitivity.shares(units, ratio)

    def _ratio(
        self,
        survey: Survey,
        whole: size.Size,
        goal: Target,
        fraction: float,
        sharing: target.Sharing,
    ) -> float:
        if goal.kind == "ratio":
            return float(1 - (1 - goal.value) ** fraction)
        self.progress.stage("looking for the ratio")
        kind: Literal["macs", "parameters"] = "macs" if goal.kind == "macs" else "parameters"
        return target.counted(survey, whole, kind, goal.value**fraction, sharing).ratio

    def _note(self, pruned: Pruned, whole: size.Size) -> None:
        self.dropped |= pruned.dropped
        self.narrow += pruned.narrow
        now = size.measure(pruned.module, self.example)
        gone = [f"{len(pruned.cuts)} groups of layers pruned"]
        if pruned.head_cuts:
            heads = sum(len(cut.heads) for cut in pruned.head_cuts)
            gone.append(f"{heads} attention heads taken out")
        if pruned.dropped:
            gone.append(f"dropped {', '.join(pruned.dropped)}")
        self.progress.say(
            f"{'; '.join(gone)}: {whole.macs:,} → {now.macs:,} multiplications a row, "
            f"{whole.parameters:,} → {now.parameters:,} parameters"
        )
        for layer, reason in pruned.left.items():
            self.progress.say(f"left as it is: {layer}, {reason}")

    def _teach(self) -> Teach | None:
        if self.step.recover == "targets":
            return None
        kind = self.options.precision
        # A copy: the loop's device and memory layout are nothing that pruning should meet.
        return soft.lesson(soft.asked(copy.deepcopy(self.whole), kind=kind))

    def _loss(self) -> Loss:
        if self.step.recover == "targets":
            return self.loss
        return soft.soft_loss(self.loss, temperature=TEMPERATURE, alpha=ALPHA)


def rows_of(
    definition: Definition,
    names: tuple[str, ...],
    golden_rows: tuple[torch.Tensor, ...],
    *,
    limit: int = SENSITIVITY_ROWS,
) -> list[tuple[torch.Tensor, ...]]:
    """Batches of real inputs without targets: calibration()'s first, else the golden rows."""
    if not definition.has("calibration"):
        return [golden_rows]
    found: list[tuple[torch.Tensor, ...]] = []
    count = 0
    for batch in itertools.islice(definition.batches("calibration"), limit):
        found.append(tensors(batch, names, what="a batch of calibration()"))
        count += len(found[-1][0])
        if count >= limit:
            break
    return found or [golden_rows]


def replace_epochs(options: TrainingOptions, epochs: int) -> TrainingOptions:
    """The same options for so many epochs."""
    import msgspec

    return msgspec.structs.replace(options, epochs=epochs)
