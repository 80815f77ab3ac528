"""A local Hugging Face folder: its task, tokenizer or pictures, labels; and what is refused."""

import json
import shutil

import numpy as np
import pytest

from mlserve_cli.errors import DefinitionError
from mlserve_cli.export import hugging_face_pictures
from mlserve_cli.export.export import export
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime.processing import build
from mlserve_cli.runtime.processing.declaration import ClassesOutput, TextInput, ValuesOutput
from mlserve_cli.runtime.processing.image import ImageReader

pytest.importorskip("transformers")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "the", "train", "leaves", "no", "rain"]
SMALL = {
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}


def write_tokenizer(folder):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordPiece({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def saved(tmp_path):
    """Save a tiny network with random weights, as save_pretrained() does."""

    def save(architecture, config, *, name="folder", tokenizer=True, **fields):
        import torch
        import transformers

        torch.manual_seed(0)
        kind = getattr(transformers, config)
        values = {"id2label": {0: "sad", 1: "glad", 2: "neither"}} | fields
        network = getattr(transformers, architecture)(kind(**values)).eval()
        folder = tmp_path / name
        network.save_pretrained(folder)
        if tokenizer:
            write_tokenizer(folder)
        return folder, network

    return save


def test_a_text_classifier_answers_text_with_its_own_labels(saved, tmp_path):
    import torch

    folder, network = saved("BertForSequenceClassification", "BertConfig", **SMALL)

    package = export(str(folder), tmp_path / "package")

    manifest = package.manifest
    assert manifest.name == "folder"
    assert manifest.labels == ("sad", "glad", "neither")
    assert manifest.processing.input == TextInput(
        tensor="input_ids",
        tokenizer="tokenizer.json",
        mask="attention_mask",
        type_ids="token_type_ids",
        max_length=64,
    )
    assert manifest.processing.output == ClassesOutput(tensor="logits", softmax=True)
    assert manifest.inputs[0].shape == ("batch", "sequence")
    assert manifest.batch.invariant
    assert manifest.padding.harmless
    assert manifest.sample == "synthetic"
    assert manifest.lineage[0].parameters["task"] == "text-classification"
    assert all(check.passed for check in verify(package.path))
    lines = package.evidence("export")[0]["lines"]
    assert sorted({line["batch"] for line in lines}) == [1, 2, 7]
    assert len(lines) == 9  # at three lengths

    processor = build(manifest, package.serve)
    inputs = processor.tensors(["The train leaves", "no"])
    engine = package.engine()
    answers = processor.answers(engine.run(inputs))
    engine.close()
    with torch.no_grad():
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        expected = network(**given).logits.softmax(-1)
    for answer, scores in zip(answers, expected, strict=True):
        assert answer["label"] == manifest.labels[int(scores.argmax())]
        assert answer["score"] == pytest.approx(float(scores.max()), abs=1e-5)


def test_a_sentence_transformers_folder_is_pooled_and_normalized_in_the_graph(saved, tmp_path):
    folder, network = saved("BertModel", "BertConfig", **SMALL)
    parts = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"idx": index, "path": path, "type": f"sentence_transformers.models.{kind}"}
                for index, (kind, path) in enumerate(parts)
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')

    package = export(str(folder), tmp_path / "package")

    assert package.manifest.processing.output == ValuesOutput(tensor="embedding")
    processor = build(package.manifest, package.serve)
    inputs = processor.tensors(["the train leaves", "no rain"])
    engine = package.engine()
    found = engine.run(inputs)["embedding"]
    engine.close()
    import torch

    with torch.no_grad():
        given = {name: torch.from_numpy(array) for name, array in inputs.items()}
        tokens = network(**given).last_hidden_state.numpy()
    mask = inputs["attention_mask"][..., None]
    mean = (tokens * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(
        found, mean / np.linalg.norm(mean, axis=1, keepdims=True), rtol=1e-4, atol=1e-5
    )
    assert (package.source / "1_Pooling" / "config.json").is_file()  # what rebuilds it
    assert (package.source / "weights.safetensors").is_file()


VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
CNN = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 32, 32], "image_size": 32}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "config", "fields", "output"),
    [
        ("ViTForImageClassification", "ViTConfig", VIT, ("batch", 3)),
        (
            "ResNetForImageClassification",
            "ResNetConfig",
            {**CNN, "embedding_size": 8},
            ("batch", 3),
        ),
        ("ConvNextForImageClassification", "ConvNextConfig", CNN, ("batch", 3)),
        ("BertForTokenClassification", "BertConfig", SMALL, ("batch", "sequence", 3)),
        ("RobertaForSequenceClassification", "RobertaConfig", SMALL, ("batch", 3)),
        (
            "DistilBertForSequenceClassification",
            "DistilBertConfig",
            {"vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
            ("batch", 3),
        ),
        ("ElectraModel", "ElectraConfig", SMALL, ("batch", "sequence", 32)),
    ],
)
def test_other_architectures_become_packages_that_verify(
    saved, tmp_path, architecture, config, fields, output
):
    folder, _ = saved(architecture, config, tokenizer="Image" not in architecture, **fields)

    package = export(str(folder), tmp_path / "package")

    assert package.manifest.outputs[0].shape == output
    assert package.manifest.batch.invariant
    assert package.evidence("export")[0]["relative_error"] < 1e-4
    assert all(check.passed for check in verify(package.path))


@pytest.mark.parametrize(
    ("class_name", "settings"),
    [
        ("ViTImageProcessor", {"size": {"height": 24, "width": 24}}),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3},
        ),
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}},
        ),
    ],
)
def test_pictures_become_the_pixels_of_the_folders_own_processor(tmp_path, class_name, settings):
    import io

    import transformers
    from PIL import Image

    from mlserve_cli.runtime.manifest import Manifest
    from mlserve_cli.runtime.tensors import TensorSpec

    name = class_name if hasattr(transformers, f"{class_name}Pil") is False else f"{class_name}Pil"
    processor = getattr(transformers, name)(**settings)
    processor.save_pretrained(tmp_path)
    ground = np.linspace(0, 255, 60 * 40 * 3).reshape(40, 60, 3)
    picture = Image.fromarray(np.uint8((ground + 40 * np.sin(ground / 9)) % 256))
    file = io.BytesIO()
    picture.save(file, "PNG")

    declared, notes = hugging_face_pictures.read(tmp_path, object())

    assert notes == []
    shape = ("batch", 3, declared.height, declared.width)
    manifest = Manifest(
        name="x",
        version="1",
        variant="fp32",
        inputs=(TensorSpec("pixel_values", "FP32", shape),),
        outputs=(),
    )
    found = ImageReader(manifest, declared).tensors([file.getvalue()])["pixel_values"][0]
    expected = np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])
    assert found.shape == expected.shape
    # They resize the whole and then cut; we resize what will show: borders round otherwise.
    assert np.abs(found - expected).mean() < 0.02 * np.abs(expected).mean()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "is a GPT2LMHeadModel: no task"),
        (
            {"architectures": ["T5Model"], "is_encoder_decoder": True},
            "is a T5Model: an encoder with a decoder",
        ),
        ({}, "names no architecture"),
        ([], "is no JSON object"),
    ],
)
def test_a_folder_of_another_task_is_refused_with_what_can_be(tmp_path, config, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")

    with pytest.raises(DefinitionError, match=message):
        export(str(folder), tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")

    with pytest.raises(DefinitionError, match="only safetensors are read"):
        export(str(tmp_path), tmp_path / "package")


def test_code_that_lies_in_a_folder_is_never_run(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["MineModel"],
                "model_type": "mine",
                "auto_map": {"AutoConfig": "mine.MineConfig", "AutoModel": "mine.MineModel"},
            }
        )
    )
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")

    with pytest.raises(DefinitionError, match=r"Python code that lies in it|cannot load"):
        export(str(tmp_path), tmp_path / "package")
    assert not (tmp_path / "ran").exists()


def test_a_head_that_was_never_trained_is_refused_by_name(saved, tmp_path):
    folder, _ = saved("BertModel", "BertConfig", **SMALL)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["BertForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config))

    with pytest.raises(DefinitionError, match=r"classifier\.bias, classifier\.weight are missing"):
        export(str(folder), tmp_path / "package")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        (["Transformer", "Pooling", "LSTM"], "is made of Transformer, Pooling, LSTM"),
        (["Pooling", "Transformer"], "which cannot be exported"),
    ],
)
def test_parts_of_a_sentence_model_that_are_not_known_are_named(tmp_path, modules, message):
    (tmp_path / "modules.json").write_text(
        json.dumps(
            [{"idx": index, "path": "", "type": f"s.{kind}"} for index, kind in enumerate(modules)]
        )
    )
    with pytest.raises(DefinitionError, match=message):
        export(str(tmp_path), tmp_path / "package")


def test_a_package_can_be_trained_further_and_its_definition_exports_again(saved, tmp_path):
    import torch

    from mlserve_cli.pipeline.cases import Cases
    from mlserve_cli.training import source

    folder, network = saved("BertForSequenceClassification", "BertConfig", **SMALL)
    package = export(str(folder), tmp_path / "package")

    trainable = source.load(package)

    ids = torch.randint(5, 11, (2, 7))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        expected = network(**given).logits
        found = trainable.module(**given)["logits"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    loss = trainable.module.train()(**given)["logits"].square().sum()
    loss.backward()
    assert all(each.grad is not None for each in trainable.module.network.classifier.parameters())
    assert Cases.of(package).calibration(package) is None  # its sample() was made up

    shutil.copytree(package.source, tmp_path / "mine")
    again = export(str(tmp_path / "mine" / "definition.py"), tmp_path / "again")
    assert again.manifest.processing == package.manifest.processing
    assert again.manifest.labels == package.manifest.labels
    assert again.manifest.inputs == package.manifest.inputs
