"""What a Hugging Face model is for, found from its config, and the module that is exported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DefinitionError
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    TokensOutput,
    ValuesOutput,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Module:
    """A line of modules.json: a part of a sentence-transformers model, its class and folder."""

    kind: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """name: as Hugging Face calls it. suffix: of the architecture. loader: the class for it.

    labelled: whether its outputs are scores of the config's labels.
    """

    name: str
    suffix: str
    loader: str
    labelled: bool = False

    def wrap(
        self,
        network: torch.nn.Module,
        folder: Path,
        modules: Sequence[Module],
        inputs: tuple[str, ...],
    ) -> torch.nn.Module:
        """The module that is exported: tensors in, named tensors out."""
        from mlserve_cli.export import hugging_face_modules as wrappers

        if self is SENTENCE:
            return wrappers.sentence(network, folder, modules)
        several = _problem(network.config) == "multi_label_classification"
        several = several and self.name == "text-classification"
        if "pixel_values" in inputs:
            return wrappers.picture(network)
        return wrappers.text(network, shares=several)

    def output(self, config: Any) -> ClassesOutput | ValuesOutput | TokensOutput | None:
        """The declared output: classes, values, or the tensors as they are."""
        if self is SENTENCE:
            return ValuesOutput(tensor="embedding")
        if not self.labelled:
            return None
        if self.name == "token-classification":
            return TokensOutput(tensor="logits", softmax=True)
        if self.name == "text-classification":
            problem = _problem(config)
            if problem == "regression":
                return ValuesOutput(tensor="logits")
            if problem == "multi_label_classification":
                return ClassesOutput(tensor="scores")
        return ClassesOutput(tensor="logits", softmax=True)


SENTENCE = Task(name="sentence-similarity", suffix="Model", loader="AutoModel")

TASKS = (
    Task(
        name="text-classification",
        suffix="ForSequenceClassification",
        loader="AutoModelForSequenceClassification",
        labelled=True,
    ),
    Task(
        name="token-classification",
        suffix="ForTokenClassification",
        loader="AutoModelForTokenClassification",
        labelled=True,
    ),
    Task(
        name="image-classification",
        suffix="ForImageClassification",
        loader="AutoModelForImageClassification",
        labelled=True,
    ),
    Task(name="feature-extraction", suffix="Model", loader="AutoModel"),
)


def find(folder: Path, config: dict[str, Any], *, sentence: bool) -> Task:
    """The task of the folder. Raises `DefinitionError` for one that is not known here."""
    if sentence:
        return SENTENCE
    names = config.get("architectures") or []
    if not isinstance(names, list) or not names:
        raise DefinitionError(
            f"config.json of '{folder}' names no architecture.",
            hint='it needs a line such as "architectures": ["BertForSequenceClassification"]',
        )
    name = str(names[0])
    if config.get("is_encoder_decoder"):
        raise _unknown(folder, name, "an encoder with a decoder")
    for task in TASKS:
        if name.endswith(task.suffix) and "Head" not in name:
            return task
    raise _unknown(folder, name, "no task that can be exported")


def sentence_modules(folder: Path) -> tuple[Module, ...]:
    """The parts of a sentence-transformers folder; nothing where it is none.

    Raises `DefinitionError` for a part that is not known, or in an order that makes no sense.
    """
    from mlserve_cli.export.hugging_face import CONFIG

    path = folder / "modules.json"
    if not path.is_file():
        return ()
    import json

    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        modules = tuple(
            Module(str(each["type"]).rpartition(".")[2], str(each.get("path", "")))
            for each in sorted(listed, key=lambda each: int(each["idx"]))
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DefinitionError(f"'{path}' cannot be read: {error}.") from error
    kinds = [module.kind for module in modules]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", *_AFTER)]
    if unknown or kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - set(_AFTER):
        raise DefinitionError(
            f"'{path}' is made of {', '.join(kinds)}, which cannot be exported.",
            hint="a Transformer, then Pooling, then any of Dense and Normalize can be",
        )
    for module in modules:
        inside = (folder / module.path).resolve()
        if not inside.is_relative_to(folder.resolve()):
            raise DefinitionError(f"'{path}' names '{module.path}', which leaves the folder.")
        if module.kind != "Normalize" and not (inside / CONFIG).is_file():
            raise DefinitionError(f"'{inside / CONFIG}' is missing.")
    return modules


_AFTER = ("Dense", "Normalize")


def _problem(config: Any) -> str:
    told = getattr(config, "problem_type", None)
    if told:
        return str(told)
    return "regression" if getattr(config, "num_labels", 2) == 1 else "single_label_classification"


def _unknown(folder: Path, architecture: str, what: str) -> DefinitionError:
    return DefinitionError(
        f"'{folder}' is a {architecture}: {what}.",
        hint="text, token and image classification, sentence embeddings and plain encoders can be; "
        "of another, save the encoder: AutoModel.from_pretrained(FOLDER).save_pretrained(DIR)",
    )
