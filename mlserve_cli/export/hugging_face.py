"""A local Hugging Face folder → ONNX, compared with the model that transformers makes of it.

The folder is what `save_pretrained` writes: config.json, weights as safetensors, and the tokenizer
or the image processor beside them; or what sentence-transformers writes, with its modules.json. The
task is the one that config.json names in `architectures`. Nothing is fetched, and no code that lies
in the folder is run.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlserve_cli.errors import DefinitionError, StepError, first_line, needs_extra
from mlserve_cli.export import (
    hugging_face_inputs,
    hugging_face_source,
    hugging_face_tasks,
    onnx_from_torch,
)
from mlserve_cli.export.goal import Goal
from mlserve_cli.export.hugging_face_tasks import Task
from mlserve_cli.export.origin import Origin
from mlserve_cli.graph import from_torch
from mlserve_cli.package.progress import Progress
from mlserve_cli.runtime.processing.declaration import Processing

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
_PICKLES = (
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "tf_model.h5",
    "flax_model.msgpack",
)


def is_folder(path: Path) -> bool:
    """Whether a folder looks like one of Hugging Face's."""
    return (path / CONFIG).is_file() or (path / "modules.json").is_file()


def write(source: Path, folder: Path, goal: Goal, progress: Progress) -> Origin:
    """Write the model of `source`, and its tokenizer, into `folder`.

    Raises `DefinitionError` for a folder that lacks something or asks for code of its own, and
    `StepError` where the model cannot be traced, or the exported one answers differently.
    """
    if goal.torch:
        goal.check_onnx("a Hugging Face folder")
    modules = hugging_face_tasks.sentence_modules(source)
    inside = source / modules[0].path if modules else source
    config = read_json(inside / CONFIG)
    _check_weights(inside)
    progress.stage("loading the model")
    with _offline(), needs_extra("hf", "export Hugging Face folders"):
        import safetensors  # noqa: F401
        import transformers

        task = hugging_face_tasks.find(inside, config, sentence=bool(modules))
        network, loaded = _load(inside, task, transformers)
        inputs = hugging_face_inputs.read(source, inside, network, task)
        module = task.wrap(network, source, modules, inputs.names)
    labels = _labels(network.config) if task.labelled else ()
    exported = onnx_from_torch.write(
        module,
        inputs.batches,
        folder / goal.file,
        progress=progress,
        outputs=None,
        dynamic=inputs.dynamic,
        engine=goal.engine,
        fuse=goal.fuse,
    )
    processing = Processing()
    if inputs.declared is not None:
        inputs.copy(folder)
        processing = Processing(input=inputs.declared, output=task.output(network.config))
    keep = hugging_face_source.writer(
        source, inside, modules, network, module, inputs, processing, labels
    )
    for text in (*loaded, *inputs.notes):
        progress.say(text)
    return Origin(
        kind="Hugging Face",
        variant="fp32",
        parameters={
            "source": "huggingface",
            "task": task.name,
            "architecture": type(network).__name__,
            **exported.parameters,
        },
        libraries=("torch", "transformers", "onnx", "onnxscript"),
        parity=exported.parity,
        labels=labels,
        made_up=inputs.batches[0],
        processing=processing,
        write_source=keep,
        engine=goal.engine,
        model=goal.file,
    )


def rebuild(folder: Path, *, inputs: Sequence[str], pooled: bool) -> torch.nn.Module:
    """The module that `write` exported, with the sizes of the configs in `folder` and any weights.

    inputs: what its `forward` takes. pooled: whether the network's own pooler was trained.
    """
    modules = hugging_face_tasks.sentence_modules(folder)
    inside = folder / modules[0].path if modules else folder
    with _offline(), needs_extra("hf", "rebuild Hugging Face networks"):
        import torch
        import transformers

        task = hugging_face_tasks.find(inside, read_json(inside / CONFIG), sentence=bool(modules))
        config = transformers.AutoConfig.from_pretrained(inside, local_files_only=True)
        network = getattr(transformers, task.loader).from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
        if not pooled and hasattr(network, "pooler"):
            network.pooler = None
        return task.wrap(network.eval(), folder, modules, tuple(inputs))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the folder. Raises `DefinitionError` when it is missing or none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DefinitionError(
            f"'{path}' is missing.", hint="a Hugging Face folder is what save_pretrained() writes"
        ) from None
    except (OSError, ValueError) as error:
        raise DefinitionError(f"'{path}' cannot be read: {first_line(error)}.") from error
    if not isinstance(found, dict):
        raise DefinitionError(f"'{path}' is no JSON object.")
    return found


def _check_weights(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    there = [name for name in _PICKLES if (folder / name).is_file()]
    if there:
        raise DefinitionError(
            f"'{folder}' holds its weights in '{there[0]}', and only safetensors are read.",
            hint="write them again in Python: "
            "AutoModel.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    raise DefinitionError(
        f"'{folder}' has no weights: no .safetensors file lies in it.",
        hint="download the whole model, with its .safetensors files",
    )


def _load(folder: Path, task: Task, transformers: Any) -> tuple[torch.nn.Module, list[str]]:
    """The model in float32 and eval mode, and what is worth saying of its weights."""
    import torch

    loader = getattr(transformers, task.loader)
    try:
        with from_torch.quiet():
            network, info = loader.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                dtype=torch.float32,
                # Written with plain operators; what makes them one is `graph.fusion`.
                attn_implementation="eager",
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and others
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            raise DefinitionError(
                f"'{folder}' asks to run Python code that lies in it, which mlserve never does.",
                hint="write a definition whose model() builds the network from code of yours",
            ) from error
        raise DefinitionError(
            f"transformers cannot load '{folder}': {text[:300]}",
            hint="check that it is whole, and that this version of transformers knows its "
            "model_type",
        ) from error
    missing = sorted(str(key) for key in info["missing_keys"])
    needed = [key for key in missing if not key.startswith("pooler.")]
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    if needed or mismatched:
        named = needed or mismatched
        raise DefinitionError(
            f"the weights in '{folder}' do not fill {type(network).__name__}: "
            f"{', '.join(named[:5])}{' …' if len(named) > 5 else ''} "
            f"{'are missing' if needed else 'have another shape'}.",
            hint="a part that was never trained would answer noise; save the fine-tuned model",
        )
    if missing:
        network.pooler = None  # it was never trained; the hidden states do without it
    unexpected = sorted(str(key) for key in info["unexpected_keys"])
    said = []
    if unexpected:
        said.append(
            f"{len(unexpected)} weights are of no use to {type(network).__name__}: "
            + ", ".join(unexpected[:3])
            + (" …" if len(unexpected) > 3 else "")
        )
    return network.eval(), said


def _labels(config: Any) -> tuple[str, ...]:
    names = dict(getattr(config, "id2label", None) or {})
    return tuple(str(names.get(index, index)) for index in range(len(names)))


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Nothing is asked of a network, no bar is drawn, no telemetry is thought of."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        with from_torch.quiet():
            yield
    except StepError:
        raise
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
