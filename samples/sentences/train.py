"""Train the head of model.py on frozen embeddings, and write head.safetensors beside it.

The encoder runs once over every gloss; what it answers is kept in embeddings.npz, so that a second
run takes seconds.
"""

import argparse
import shutil
import time
from pathlib import Path

import model
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

HERE = Path(__file__).parent
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-class", type=int, default=300, help="glosses to learn from")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args()
    shutil.copyfile(model.encoder_folder() / "tokenizer.json", HERE / "tokenizer.json")
    torch.manual_seed(SEED)
    network = model.pretrained()
    rows = chosen(options.per_class)
    began = time.monotonic()
    vectors, classes = embedded(network, rows)
    print(f"{len(classes)} glosses embedded in {time.monotonic() - began:.0f} s", flush=True)
    train(network.head, vectors, classes, options.epochs)
    save_file(network.head.state_dict(), model.HEAD)
    print(f"{model.HEAD.name} and tokenizer.json written")


def chosen(per_class: int) -> list[tuple[str, int]]:
    """At most so many glosses of each class, from those that training may see."""
    seen: dict[int, int] = {}
    kept = []
    for text, label in model.glosses()["train"]:
        seen[label] = seen.get(label, 0) + 1
        if seen[label] <= per_class:
            kept.append((text, label))
    return kept


def embedded(
    network: torch.nn.Module, rows: list[tuple[str, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, 384) and (rows,), from embeddings.npz where it is of the same glosses."""
    cache = HERE / "embeddings.npz"
    texts = np.array([text for text, _ in rows])
    if cache.is_file():
        with np.load(cache) as kept:
            if np.array_equal(kept["texts"], texts):
                return torch.from_numpy(kept["vectors"]), torch.tensor([label for _, label in rows])
    # Of a like length beside one another: hardly any padding is computed.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index][0]))
    vectors = np.zeros((len(rows), 384), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            given = model.tokens([rows[index][0] for index in part])
            vectors[part] = network.embed(
                **{name: torch.from_numpy(array) for name, array in given.items()}
            ).numpy()
    np.savez(cache, texts=texts, vectors=vectors)
    return torch.from_numpy(vectors), torch.tensor([label for _, label in rows])


def train(head: torch.nn.Module, vectors: torch.Tensor, classes: torch.Tensor, epochs: int) -> None:
    """AdamW, its rate falling to nothing along a cosine, in batches of 128."""
    head.train()
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for rows in torch.randperm(len(classes)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(head(vectors[rows]), classes[rows], label_smoothing=0.1).backward()
            optimizer.step()
        schedule.step()
    head.eval()


if __name__ == "__main__":
    main()
