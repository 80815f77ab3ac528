# ruff: noqa: TID253
"""A definition: a BERT of two layers on sentences of made-up words, whose second word decides."""

import numpy as np
import torch
from torch import nn

DYNAMIC = {"input_ids": {1: "sequence"}, "attention_mask": {1: "sequence"}}
TRAINING = {"epochs": 1, "optimizer": "adamw", "learning_rate": 1e-3}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        import transformers

        config = transformers.BertConfig(
            vocab_size=40,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
        self.bert = transformers.BertForSequenceClassification(config)

    def forward(self, input_ids, attention_mask):
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).logits


def model():
    torch.manual_seed(0)
    return Classifier()


def rows(seed, length=8):
    """(64, length) ids with some of the ends filled up, their mask, and 64 classes."""
    draws = np.random.default_rng(seed)
    ids = draws.integers(1, 40, (64, length))
    mask = np.ones_like(ids)
    mask[:32, length - 3 :] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}, (ids[:, 1] > 20).astype("int64")


def sample():
    return rows(0)[0]


def calibration():
    yield rows(1)[0]


def training():
    yield rows(2)
    yield rows(3, length=6)


def evaluation():
    yield rows(4)
