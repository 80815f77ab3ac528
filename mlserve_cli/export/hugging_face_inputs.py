"""A folder's tokenizer or image processor as declared processing, and rows to trace with."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlserve_cli.errors import DefinitionError, first_line
from mlserve_cli.export.hugging_face_tasks import SENTENCE, Task
from mlserve_cli.runtime.processing.declaration import ImageInput, TextInput
from mlserve_cli.runtime.tensors import Tensors

if TYPE_CHECKING:
    import torch

TOKENIZER = "tokenizer.json"
ROWS = 8
"""One more than the largest batch that is compared."""

_TEXTS = (
    "The train to the coast leaves at nine.",
    "No.",
    "She paid 42,50 € for it, and never regretted a cent!",
    "Der Himmel über dem Hafen war grau.",
    "What would you do if the answer were not the one that you had hoped for all these years?",
    "A small brown bird sat on the fence, looked about, and flew away.",
    "Please send the report to my colleague before Friday (she is back then).",
    "東京は雨です。",
)
"""Of different kinds and lengths, to trace and compare with where the user gave none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a model takes.

    batches: made-up rows, of another length each where `dynamic` leaves the length open.
    declared: the processing; None where the folder has none. notes: what is worth saying.
    """

    names: tuple[str, ...]
    batches: tuple[Tensors, ...]
    dynamic: Mapping[str, Mapping[int, str]]
    declared: TextInput | ImageInput | None = None
    tokenizer: Any = None
    notes: list[str] = field(default_factory=list)

    def copy(self, folder: Path) -> None:
        """Write the tokenizer into `folder`."""
        if isinstance(self.tokenizer, Path):
            shutil.copyfile(self.tokenizer, folder / TOKENIZER)
        elif self.tokenizer is not None:
            self.tokenizer.save(str(folder / TOKENIZER))


def read(folder: Path, inside: Path, network: torch.nn.Module, task: Task) -> Inputs:
    """What the model of the folder takes. Raises `DefinitionError` where it is neither text nor
    pictures.
    """
    main = getattr(network, "main_input_name", "input_ids")
    if main == "pixel_values":
        return _pictures(folder, network.config)
    if main == "input_ids":
        return _text(folder, inside, network, task)
    raise DefinitionError(
        f"'{folder}' is a {type(network).__name__}, whose input is '{main}'.",
        hint="models of text (input_ids) and of pictures (pixel_values) can be exported; "
        "for another one write a definition, see 'mlserve init'",
    )


def _text(folder: Path, inside: Path, network: torch.nn.Module, task: Task) -> Inputs:
    import inspect

    from mlserve_cli.export.hugging_face import read_json

    config = network.config
    taken = inspect.signature(network.forward).parameters
    names = ["input_ids", "attention_mask"]
    settings: dict[str, Any] = {}
    if (inside / "tokenizer_config.json").is_file():
        settings = read_json(inside / "tokenizer_config.json")
    told = settings.get("model_input_names")
    types = int(getattr(config, "type_vocab_size", 0) or 0) > 1
    if "token_type_ids" in taken and types and (told is None or "token_type_ids" in told):
        names.append("token_type_ids")
    longest = _longest(folder, inside, settings, config, sentence=task is SENTENCE)
    tokenizer, where = _tokenizer(inside)
    notes = []
    declared = None
    if tokenizer is None:
        notes.append("the folder has no tokenizer: the package takes token ids, not text")
    elif task is SENTENCE and _asks_for_lower_case(inside, tokenizer):
        notes.append(
            "sentence-transformers lowers the case of the text first, which the tokenizer does "
            "not: the package takes token ids, not text"
        )
    else:
        declared = TextInput(
            tensor="input_ids",
            tokenizer=TOKENIZER,
            mask="attention_mask",
            type_ids="token_type_ids" if "token_type_ids" in names else None,
            max_length=longest,
        )
    vocabulary = int(getattr(config, "vocab_size", 0) or 0)
    if tokenizer is not None and tokenizer.get_vocab_size() > vocabulary > 0:
        raise DefinitionError(
            f"the tokenizer of '{folder}' knows {tokenizer.get_vocab_size()} tokens, "
            f"and the model {vocabulary}.",
            hint="it belongs to another model",
        )
    return Inputs(
        names=tuple(names),
        batches=tuple(
            {name: rows[name] for name in names} for rows in _tokens(tokenizer, vocabulary, longest)
        ),
        dynamic={name: {1: "sequence"} for name in names},
        declared=declared,
        tokenizer=where,
        notes=notes,
    )


def _tokenizer(inside: Path) -> tuple[Any, Any]:
    """The tokenizer, and what to copy: its file, or what transformers makes of an older form."""
    from tokenizers import Tokenizer

    path = inside / TOKENIZER
    if path.is_file():
        try:
            return Tokenizer.from_file(str(path)), path
        except Exception as error:  # the library raises bare Exception
            raise DefinitionError(f"'{path}' cannot be read: {first_line(error)}.") from error
    if not any((inside / name).is_file() for name in ("vocab.txt", "vocab.json", "spiece.model")):
        return None, None
    try:
        from transformers import AutoTokenizer

        made = AutoTokenizer.from_pretrained(
            inside, local_files_only=True, trust_remote_code=False
        ).backend_tokenizer
    except Exception:  # no fast form of it, or a library that it needs is not there
        return None, None
    return made, made


def _longest(
    folder: Path, inside: Path, settings: dict[str, Any], config: Any, *, sentence: bool
) -> int:
    """The most tokens that a text may have: the least of all that the folder says."""
    from mlserve_cli.export.hugging_face import read_json

    said = [512]
    if isinstance(settings.get("model_max_length"), int):
        said.append(settings["model_max_length"])
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        # RoBERTa and its kin count positions from behind the padding's index.
        offset = (config.pad_token_id or 0) + 1 if _counts_from_padding(config) else 0
        said.append(positions - offset)
    for name in ("sentence_bert_config.json", "sentence_roberta_config.json"):
        path = inside / name if (inside / name).is_file() else folder / name
        if sentence and path.is_file():
            length = read_json(path).get("max_seq_length")
            said += [length] if isinstance(length, int) else []
    return max(1, min(said))


def _counts_from_padding(config: Any) -> bool:
    kind = str(getattr(config, "model_type", ""))
    return "roberta" in kind or kind in ("camembert", "mpnet", "longformer", "esm", "data2vec-text")


def _asks_for_lower_case(inside: Path, tokenizer: Any) -> bool:
    from mlserve_cli.export.hugging_face import read_json

    path = inside / "sentence_bert_config.json"
    if not path.is_file() or not read_json(path).get("do_lower_case"):
        return False
    return bool(tokenizer.encode("Upper CASE").ids != tokenizer.encode("upper case").ids)


def _tokens(tokenizer: Any, vocabulary: int, longest: int) -> list[Tensors]:
    """The texts in batches of three lengths; without a tokenizer, made-up ids."""
    if tokenizer is None:
        generator = np.random.default_rng(0)
        found = [
            generator.integers(min(5, vocabulary - 1), vocabulary, (size,))
            for size in (9, 4, 16, 11, 22, 17, 16, 7)
        ]
        ids = [[int(each) for each in row][:longest] for row in found]
    else:
        tokenizer.no_padding()
        tokenizer.enable_truncation(longest)
        ids = [encoding.ids for encoding in tokenizer.encode_batch(list(_TEXTS))]
    lengthy = [(row * (1 + 48 // len(row)))[: min(longest, 48)] for row in ids]
    return [_filled(rows) for rows in (ids, [row[: max(2, len(row) // 3)] for row in ids], lengthy)]


def _filled(ids: list[list[int]]) -> Tensors:
    size = max(map(len, ids))
    tokens = np.zeros((len(ids), size), np.int64)
    mask = np.zeros_like(tokens)
    for number, row in enumerate(ids):
        tokens[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return {
        "input_ids": tokens,
        "attention_mask": mask,
        "token_type_ids": np.zeros_like(tokens),
    }


def _pictures(folder: Path, config: Any) -> Inputs:
    from mlserve_cli.export import hugging_face_pictures

    declared, notes = hugging_face_pictures.read(folder, config)
    channels = int(getattr(config, "num_channels", 3))
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    if declared is not None:
        height, width, channels = declared.height, declared.width, declared.channels
    generator = np.random.default_rng(0)
    pixels = generator.standard_normal((ROWS, channels, height, width)).astype(np.float32)
    return Inputs(
        names=("pixel_values",),
        batches=({"pixel_values": pixels},),
        dynamic={},
        declared=declared,
        notes=notes,
    )
