"""`mlserve prune`: fewer channels in every layer, then training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from mlserve_cli.errors import StepError, needs_extra
from mlserve_cli.graph import successor
from mlserve_cli.package.draft import Draft
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Progress
from mlserve_cli.package.step import Change
from mlserve_cli.prune.channels import prune
from mlserve_cli.runtime import golden
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.training import size, source
from mlserve_cli.training.inputs import batches, tensors
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.variant import prefixed

LIBRARIES = ("torch", "torch-pruning", "onnx", "onnxscript")

GENTLER = 5.0
"""Fine-tuning starts from weights worth keeping: a fifth of the rate that they were trained with
recovered best on the digits sample (98.1 %, against 98.0 and 97.9 % at a half and the whole)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneStep:
    """Takes `ratio` of the channels out of each layer, then fine-tunes with training().

    ratio: share of the channels of every group of coupled layers, the least important by L2 norm;
    those that stay are rounded to a multiple of 8, and the layers that make the outputs stay whole.
    epochs, learning_rate: of the fine-tuning; by default half the epochs of TRAINING, at a fifth
    of its rate. Learning from the parent's answers beside the targets was tried: no more accurate
    on the digits sample, and twice the time.
    """

    ratio: float = 0.5
    epochs: int | None = None
    learning_rate: float | None = None
    seed: int = 0
    name: str = "prune"

    def requires(self, parent: Package) -> None:
        """Refuse a ratio outside (0, 1), and a package that cannot be trained."""
        if not 0 < self.ratio < 1:
            raise StepError(
                f"the ratio is {self.ratio:g}; it must lie between 0 and 1.",
                hint="--ratio 0.5 takes half of the channels out of each layer",
            )
        source.require_module(parent, "training")

    def apply(self, parent: Package, draft: Draft, progress: Progress) -> Change:
        """Prune, fine-tune, and write the smaller network with what further training needs."""
        with needs_extra("torch", "prune"):
            import torch_pruning  # noqa: F401  (a sentence now, not an ImportError later)
        progress.stage("tracing and pruning")
        before = source.load(parent)
        definition, names = before.definition, before.input_names
        full = TrainingOptions.of(definition)
        options = TrainingOptions.of(
            definition,
            epochs=-(-full.epochs // 2) if self.epochs is None else self.epochs,
            learning_rate=full.peak / GENTLER if self.learning_rate is None else self.learning_rate,
        )
        example = tensors(golden.read(parent.serve).inputs, names, what="the golden rows")
        pruned = prune(before.module, tuple(tensor[:2] for tensor in example), ratio=self.ratio)
        was, now = size.measure(before.module, example), size.measure(pruned.module, example)
        progress.say(
            f"{len(pruned.cuts)} groups of layers pruned: {was.macs:,} → {now.macs:,} "
            f"multiplications a row, {was.parameters:,} → {now.parameters:,} parameters"
        )
        for layer, reason in pruned.left.items():
            progress.say(f"left as it is: {layer}, {reason}")
        train(
            pruned.module,
            batches(definition, names),
            options=options,
            loss=task_loss(definition, options),
            seed=self.seed,
            progress=progress,
            title="fine-tuning",
        )
        progress.stage("writing the pruned model")
        successor.write(pruned.module, parent, draft.serve / parent.manifest.model)
        entry = {"ratio": self.ratio, "layers": pruned.layers}
        source.write(
            draft.source,
            definition,
            pruned.module,
            entry=before.entry,
            history=[*before.history, entry],
        )
        return Change(
            variant=prefixed("pruned", parent.manifest.variant),
            parameters={
                "ratio": self.ratio,
                "epochs": options.epochs,
                "learning_rate": options.peak,
                "macs_before": was.macs,
                "macs": now.macs,
                "parameters_before": was.parameters,
                "parameters": now.parameters,
            },
            seed=self.seed,
            libraries=LIBRARIES,
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
