"""A local sentence encoder, quantized and proven without a single label."""

import json
import random

import pytest
from typer.testing import CliRunner

from mlserve_cli.cli.main import app
from mlserve_cli.errors import MlserveError
from mlserve_cli.package.package import Package

pytest.importorskip("transformers")
WORDS = [f"word{number}" for number in range(60)]


def mlserve(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small network with random weights and its pooling, as sentence-transformers saves them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(config).eval().save_pretrained(folder)
    known = {word: index for index, word in enumerate(["[PAD]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    lines = [
        {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, path) in enumerate(parts)
    ]
    (folder / "modules.json").write_text(json.dumps(lines))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


@pytest.fixture(scope="module")
def texts(folder):
    """Files of texts: some to calibrate with, others to judge with, one of which stands twice."""

    def write(name, count, seed):
        chosen = random.Random(seed)
        rows = [" ".join(chosen.choices(WORDS, k=chosen.randint(3, 12))) for _ in range(count)]
        path = folder.parent / name
        lines = (json.dumps({"text": row}) for row in [*rows, rows[0]])
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return write("calibration.jsonl", 60, 1), write("rows.jsonl", 199, 2)


@pytest.fixture(scope="module")
def encoder(folder):
    """The float package."""
    package = folder.parent / "packages" / "encoder"
    mlserve("export", folder, "-o", package)
    return package


@pytest.fixture(scope="module")
def quantized(encoder, texts):
    """The int8 package, and what quantize printed of it."""
    output = encoder.with_name("int8")
    given = ("--calibration", texts[0], "--data", texts[1], "--allow-slower", "--batch", 1)
    result = mlserve("quantize", encoder, "-o", output, *given, "--json")
    return output, json.loads(result.stdout)


def test_int8_is_held_to_the_angles_and_neighbours_of_the_float_embeddings(quantized):
    output, document = quantized
    assert document["accepted"]
    assert (document["before"]["metric"], document["before"]["value"]) == ("cosine", 1.0)
    assert document["max_drop"] == 0.01
    assert 0 < document["drop"]["low"] < document["drop"]["value"] < document["drop"]["high"]
    assert document["drop"]["interval"] == "95 %, paired bootstrap"
    assert document["proof"] == "that the loss is at most 0.01 is proven at 95 %"
    neighbours = document["after"]["neighbours"]
    assert neighbours["n"] == document["after"]["n"] == 200
    assert 0.8 < neighbours["low"] < neighbours["share"] <= neighbours["high"]
    # What another test finds of the package is kept as well.
    kept = [each["neighbours"] for each in Package.open(output).evidence("accuracy")]
    assert neighbours in kept


def test_a_limit_that_it_does_not_keep_refuses_it_and_the_words_say_of_what(
    encoder, texts, tmp_path
):
    given = ("--calibration", texts[0], "--data", texts[1], "--allow-slower", "--batch", 1)
    result = mlserve(
        "quantize", encoder, "-o", tmp_path / "int8", *given, "--max-drop", 0, status=1
    )
    assert "of cosine, and --max-drop allows 0" in result.stderr
    assert "of the 200 rows keep their nearest neighbour" in result.stdout
    assert Package.open(tmp_path / "int8.refused").evidence("gate")[0]["refusals"]


def test_the_same_figures_are_found_by_evaluate_compare_and_verify(encoder, quantized, texts):
    output, document = quantized
    found = mlserve("evaluate", output, "--data", texts[1], "--reference", encoder, "--json")
    assert json.loads(found.stdout)["value"] == document["after"]["value"]
    side = mlserve("compare", encoder, output, "--data", texts[1], "--batch", 1, "--json")
    assert json.loads(side.stdout)["drop"] == document["drop"]
    claim = mlserve("verify", output, "--data", texts[1], "--reference", encoder)
    assert "on the same 200 rows" in claim.stdout


def test_without_rows_the_hint_says_that_they_need_no_labels(encoder, tmp_path):
    result = CliRunner().invoke(app, ["quantize", str(encoder), "-o", str(tmp_path / "int8")])
    assert isinstance(result.exception, MlserveError)
    assert "rows with targets, or without" in result.exception.hint
