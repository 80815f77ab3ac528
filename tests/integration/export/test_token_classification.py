"""A Hugging Face token classifier behind a server: each word of a text gets its label."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx2
import numpy as np
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.export.export import export
from mlserve_cli.runtime.errors import PackageError
from mlserve_cli.runtime.processing import build

pytest.importorskip("transformers")
MLSERVE = Path(sys.executable).with_name("mlserve")
LABELS = ("O", "B-LOC", "I-LOC")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "train", "to", "Ol", "##bia", "leaves"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny network with random weights, as save_pretrained() writes it."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        id2label=dict(enumerate(LABELS)),
    )
    target = tmp_path_factory.mktemp("tokens") / "places"
    transformers.BertForTokenClassification(config).save_pretrained(target)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    return target


@pytest.fixture(scope="module")
def package(folder):
    return export(str(folder), folder.parent / "package")


@pytest.fixture(scope="module")
def url(package):
    server = subprocess.Popen(
        [MLSERVE, "up", package.path, "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    said = []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"serving at (http://\S+)", line):
            yield found[1]
            break
    else:
        raise AssertionError("".join(said))
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=30)
    assert server.returncode == 0


def expected(folder, text):
    """(text, start, end, label, score) of each piece, by transformers itself."""
    import torch
    import transformers
    from tokenizers import Tokenizer

    encoding = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text)
    network = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        scores = network(torch.tensor([encoding.ids])).logits.softmax(-1)[0].numpy()
    return [
        (text[start:end], start, end, LABELS[row.argmax()], pytest.approx(row.max(), abs=1e-4))
        for (start, end), row in list(zip(encoding.offsets, scores, strict=True))[1:-1]
    ]


def test_each_piece_of_a_text_has_its_label_and_where_it_stands(folder, url):
    texts = ["the train to Olbia leaves", "Olbia"]

    reply = httpx2.post(f"{url}/predict/places", json=texts, timeout=30)

    assert reply.status_code == 200, reply.text
    answers = reply.json()
    rows = answers["predictions"] if isinstance(answers, dict) else answers
    for text, row in zip(texts, rows, strict=True):
        found = [tuple(token.values()) for token in row["tokens"]]
        assert found == expected(folder, text)
    assert [token["text"] for token in rows[1]["tokens"]] == ["Ol", "bia"]


def test_plain_text_is_answered_too_and_the_schema_says_so(folder, url):
    reply = httpx2.post(
        f"{url}/predict/places",
        content=b"the train",
        headers={"Content-Type": "text/plain"},
        timeout=30,
    )

    assert reply.status_code == 200, reply.text
    text = reply.text
    assert '"train"' in text
    assert '"[CLS]"' not in text
    document = httpx2.get(f"{url}/openapi.json", timeout=30).text
    assert '"tokens"' in document


def test_without_the_text_every_position_has_a_label(package):
    processor = build(package.manifest, package.serve)
    engine = package.engine()
    outputs = engine.run(processor.tensors(["the train", "Olbia leaves the train"]))
    engine.close()

    answers = processor.answers(outputs)

    length = outputs["logits"].shape[1]
    assert [len(answer["tokens"]) for answer in answers] == [length, length]
    assert set(answers[0]["tokens"][0]) == {"label", "score"}
    assert np.isfinite(answers[0]["tokens"][0]["score"])


def test_tokens_without_a_tokenizer_are_refused(package):
    import msgspec

    bare = msgspec.structs.replace(package.manifest.processing, input=None)
    manifest = msgspec.structs.replace(package.manifest, processing=bare)

    with pytest.raises((PackageError, StepError), match="takes no text through a tokenizer"):
        build(manifest, package.serve)
