"""A model definition for text: plain functions and constants that mlserve finds by name.

It works as it is: it tells what a sentence of Python's documentation is about, learnt from the
docstrings of the standard library, which are real text and always at hand. Replace the parts with
your own. Only model() and sample() are needed for an export; every other part says below what it
is for, and may be left out.
"""

import importlib
import inspect
from functools import cache

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

TOPICS = {
    "files": "os shutil pathlib tempfile zipfile tarfile glob fileinput io",
    "network": "socket ssl http.client http.server urllib.request smtplib ftplib imaplib poplib",
    "numbers": "math cmath statistics fractions decimal random numbers",
    "processes": "subprocess threading asyncio queue signal concurrent.futures multiprocessing",
    "time": "datetime calendar time zoneinfo sched",
}

# What the package says of itself. NAME stands in URLs; without it, the folder's name is taken.
NAME = "topics"
VERSION = "1"
DESCRIPTION = "What a sentence of Python's documentation is about"
LICENCE = "PSF-2.0"

# One label a class, in the order of the estimator's classes_. Without it, classes_ itself is taken.
LABELS = sorted(TOPICS)

# How a request's text becomes the input "text", and what the answer is made of. A torch model
# takes token ids instead: {"kind": "text", "tensor": "input_ids", "mask": "attention_mask",
# "tokenizer": "tokenizer.json", "max_length": 128}, with that file beside this one.
PROCESSING = {
    "input": {"kind": "text", "tensor": "text"},
    "output": {"kind": "classes", "tensor": "probabilities", "top_k": 3, "threshold": 0.3},
}

# What evaluate measures. In "points", 0.9 is 90.
METRIC = {"name": "accuracy", "higher_is_better": True, "unit": "points"}

# Files beside this one that it needs; they travel with the package.
# FILES = ["sentences.csv"]


@cache
def model() -> Pipeline:
    """The fitted pipeline. Yours will rather load one than fit it here."""
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression(C=30, max_iter=1000))
    return pipeline.fit(*split("train"))


def sample() -> np.ndarray:
    """A few real texts: the export is compared with the pipeline's own predictions on them."""
    return split("train")[0][:32]


def calibration():
    """Batches of real texts, for statistics and a longer comparison. Optional: else sample()."""
    yield split("train")[0][:512]


def evaluation():
    """Batches of (texts, targets) that the model was not fitted on. Optional."""
    yield split("test")


# def metric(outputs, targets):
#     """One value a text, or one number. Optional: METRIC["name"] may be accuracy, mae, rmse."""
#     return (outputs["label"] == targets).astype(float)


@cache
def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Texts (count,) and classes (count,), numbers into LABELS: "train", or "test" (a third)."""
    found: dict[str, int] = {}
    for number, topic in enumerate(LABELS):
        for module in TOPICS[topic].split():
            for text in docstrings(importlib.import_module(module)):
                found.setdefault(text, number)
    texts = np.array(sorted(found), dtype=object)
    classes = np.array([found[text] for text in texts])
    held_out = np.arange(len(texts)) % 3 == 0
    chosen = held_out if name == "test" else ~held_out
    return texts[chosen], classes[chosen]


def docstrings(module) -> set[str]:
    """The first sentences of the docstrings of a module's functions, classes and methods."""
    found = set()
    for thing in vars(module).values():
        owner = getattr(thing, "__module__", None) or ""
        if owner.strip("_").partition(".")[0] != module.__name__.partition(".")[0]:
            continue
        members = vars(thing).values() if inspect.isclass(thing) else ()
        for each in (thing, *members):
            text = each.__doc__ if callable(each) or isinstance(each, property) else None
            first = " ".join((text or "").strip().partition("\n\n")[0].split())
            if len(first.split()) > 4:
                found.add(first)
    return found
