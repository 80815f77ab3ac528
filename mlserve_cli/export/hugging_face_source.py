"""`source/` of a Hugging Face folder: a definition that builds the network again from its config.

It is a whole definition: whoever adds training() and evaluation() to it can export it anew, and
prune and distill what comes out. The weights lie beside it, in one file; nothing is fetched.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mlserve_cli.package.definition import Definition
from mlserve_cli.runtime.processing.declaration import Processing
from mlserve_cli.runtime.tensors import Tensors
from mlserve_cli.training import source as training_source

if TYPE_CHECKING:
    import torch

    from mlserve_cli.export.hugging_face_inputs import Inputs
    from mlserve_cli.export.hugging_face_tasks import Module

SAMPLE = "sample.json"
ROWS = 4

_TEXT = '''"""The network of a Hugging Face folder, built again from its config; nothing is fetched.

mlserve wrote this. To go on training, copy this folder, add training() and evaluation(), and export
this file: what comes out can be pruned and distilled. 'mlserve init' shows what they look like.
"""

import json
from pathlib import Path

HERE = Path(__file__).parent
FILES = {files!r}
LABELS = {labels!r}
PROCESSING = {processing!r}
DYNAMIC = {dynamic!r}

# The rows of sample() were made up to trace with, and are no calibration.
MADE_UP = True


def architecture():
    """The network without its weights."""
    from mlserve_cli.export.hugging_face import rebuild

    return rebuild(HERE, inputs={inputs!r}, pooled={pooled!r})


def model():
    """The network with the weights that lie beside this file."""
    from safetensors.torch import load_file

    network = architecture()
    network.load_state_dict(load_file(HERE / "weights.safetensors"), strict={strict!r})
    return network.eval()


def sample():
    """A few rows to trace with."""
    import torch

{sample}
'''

_LISTED = """    rows = json.loads((HERE / "sample.json").read_text())
    return {{name: torch.tensor(values) for name, values in rows.items()}}"""

_DRAWN = """    generator = torch.Generator().manual_seed(0)
    return {{{name!r}: torch.randn({shape!r}, generator=generator)}}"""


def writer(
    folder: Path,
    inside: Path,
    modules: Sequence[Module],
    network: torch.nn.Module,
    module: torch.nn.Module,
    inputs: Inputs,
    processing: Processing,
    labels: tuple[str, ...],
) -> Callable[[Path], None]:
    """What writes `source/` of a package, once its folder is there."""

    def write(target: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="mlserve-source-") as name:
            place = Path(name)
            files = [*_configs(folder, inside, modules, network, place)]
            if processing.input is not None and getattr(processing.input, "tokenizer", None):
                inputs.copy(place)
                files.append("tokenizer.json")
            sample = _sample(inputs.batches[0], place, files)
            shared = len(dict(module.state_dict())) != len(training_source.distinct(module))
            text = _TEXT.format(
                files=files,
                labels=list(labels),
                processing=_plain(processing),
                dynamic={key: dict(value) for key, value in inputs.dynamic.items()},
                inputs=list(inputs.names),
                pooled=getattr(network, "pooler", None) is not None,
                strict=not shared,
                sample=sample,
            )
            (place / training_source.DEFINITION).write_text(text, encoding="utf-8")
            training_source.write(
                target, Definition.load(place / training_source.DEFINITION), module
            )

    return write


def _configs(
    folder: Path, inside: Path, modules: Sequence[Module], network: Any, place: Path
) -> list[str]:
    """The files that say how the network is built, copied to the same places; their names."""
    names = []
    if modules:
        names.append("modules.json")
        for each in modules[1:]:
            part = folder / each.path
            wanted = (
                ("config.json", "model.safetensors") if each.kind == "Dense" else ("config.json",)
            )
            names += [
                (part / name).relative_to(folder).as_posix()
                for name in wanted
                if each.path and (part / name).is_file()
            ]
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place / name)
    config = (inside / "config.json").relative_to(folder).as_posix()
    (place / config).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / config, place / config)
    return [config, *names]


def _sample(batch: Tensors, place: Path, files: list[str]) -> str:
    """The body of sample()."""
    first, array = next(iter(batch.items()))
    if array.dtype.kind == "f":
        return _DRAWN.format(name=first, shape=(ROWS, *array.shape[1:]))
    rows = {name: each[:ROWS].tolist() for name, each in batch.items()}
    (place / SAMPLE).write_text(json.dumps(rows) + "\n", encoding="utf-8")
    files.append(SAMPLE)
    return _LISTED.format()


def _plain(processing: Processing) -> Any:
    """As a definition says it."""
    found = msgspec.to_builtins(processing)
    return {key: value for key, value in found.items() if value is not None}
