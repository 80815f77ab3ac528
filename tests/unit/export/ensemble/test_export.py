import hashlib
import json
import re

import numpy as np
import pytest
from msgspec.structs import replace

from mlserve_cli.errors import DefinitionError, MlserveError, PackageError, StepError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.package.verify import verify
from mlserve_cli.runtime import golden
from mlserve_cli.runtime import manifest as manifests
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.manifest import Manifest
from mlserve_cli.runtime.processing import build
from mlserve_cli.runtime.processing.declaration import (
    ClassesOutput,
    ImageInput,
    Processing,
    PythonProcessing,
    ValuesOutput,
)
from mlserve_cli.runtime.tensors import TensorSpec

VOTE = """
outputs = ["scores"]
[[steps]]
package = "iris"
outputs = { scores = "first" }
[[steps]]
package = "other"
outputs = { scores = "second" }
[[steps]]
operation = "mean"
inputs = ["first", "second"]
output = "scores"
"""


def test_an_ensemble_is_a_package_that_verifies(exported):
    package = exported()

    assert [check.name for check in verify(package.path)][-1] == "batch-invariance"
    assert all(check.passed for check in verify(package.path))
    assert package.manifest.batch.invariant
    assert package.manifest.engine == "ensemble"


def test_its_answers_are_those_of_its_members_run_by_hand_bit_for_bit(exported, flowers, iris):
    package = exported()
    first, second = (Package.open(flowers / name).engine() for name in ("iris", "other"))
    whole = package.engine()
    try:
        for count in (1, 2, 7, 150):
            rows = {"x": iris[0][:count]}
            by_hand = (first.run(rows)["scores"] + second.run(rows)["scores"]) / np.float32(2)
            assert np.array_equal(whole.run(rows)["scores"], by_hand)
    finally:
        for engine in (first, second, whole):
            engine.close()


def test_the_signature_is_that_of_the_members(exported):
    manifest = exported().manifest

    assert manifest.inputs == (TensorSpec("x", "FP32", ("batch", 4)),)
    assert manifest.outputs == (TensorSpec("scores", "FP32", ("batch", 3)),)
    assert manifest.sample == "real"


def test_it_takes_what_the_first_package_takes_and_answers_as_its_members_do(exported):
    package = exported()
    processor = build(package.manifest, package.serve)
    row = b'{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}'
    engine = package.engine()
    try:
        tensors = processor.tensors(processor.rows(row, "application/json"))
        (answer,) = processor.answers(engine.run(tensors))
    finally:
        engine.close()

    assert answer["label"] == "setosa"
    assert package.manifest.labels == ("setosa", "versicolor", "virginica")


def test_every_file_of_the_members_stands_in_the_outer_manifest(exported, flowers):
    package = exported()
    prefix = "serve/members/iris/"
    inner = manifests.read(flowers / "iris")

    assert f"{prefix}manifest.json" in package.manifest.files
    for name, entry in inner.files.items():
        assert package.manifest.files[prefix + name] == entry


def test_a_member_that_was_changed_is_noticed(exported):
    package = exported()
    model = package.serve / "members" / "iris" / "serve" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")

    with pytest.raises(PackageError, match="SHA-256 differs"):
        Package.open(package.path)


@pytest.mark.parametrize("place", ["members/iris/serve/extra.onnx", "functions/more.py"])
def test_a_file_that_was_laid_beside_them_is_noticed(exported, place):
    package = exported()
    (package.serve / place).parent.mkdir(exist_ok=True)
    (package.serve / place).write_text("")

    with pytest.raises(PackageError, match="does not list"):
        Package.open(package.path)


def test_the_digest_changes_with_a_member_and_with_nothing_else(exported, flowers, repack):
    once = exported(target="once").manifest.digest
    again = exported(target="again").manifest.digest
    repack(description="made anew")
    changed = exported(target="changed").manifest.digest

    assert once == again != changed


def test_a_member_that_is_made_anew_elsewhere_changes_nothing(exported, flowers, repack):
    package = exported()
    repack(version="2")

    assert all(check.passed for check in verify(package.path))


def test_the_strictest_of_the_members_holds_for_all(exported, repack):
    repack(finite_inputs=True, instruction_sets=("avx2",), tolerance=1e-2, licence="Apache-2.0")
    manifest = exported().manifest

    assert manifest.finite_inputs
    assert manifest.instruction_sets == ("avx2",)
    assert manifest.tolerance == 1e-2
    assert manifest.licence == "Apache-2.0 AND MIT"


def test_the_lineage_names_the_members_by_their_digests(exported, flowers):
    (record,) = exported().manifest.lineage

    assert record.parameters["members"] == {
        name: manifests.read(flowers / name).digest for name in ("iris", "other")
    }


def test_name_and_version_come_from_the_command_the_file_or_the_folder(exported):
    assert exported(target="a").manifest.name == "flowers"
    assert exported('name = "vote"\nversion = "3"\n' + VOTE, "b").manifest.name == "vote"
    manifest = exported('name = "vote"\n' + VOTE, "c", {"name": "mine", "version": "9"}).manifest
    assert (manifest.name, manifest.version) == ("mine", "9")


def test_golden_rows_come_from_calibration_data_where_it_is_given(exported, flowers, iris):
    np.savez(flowers / "rows.npz", x=iris[0][-5:])
    package = exported(options={"calibration": str(flowers / "rows.npz")})

    assert np.array_equal(golden.read(package.serve).inputs["x"], iris[0][-5:])


def test_a_definition_gives_rows_and_travels_along(exported):
    package = exported(
        'definition = "whole.py"\n' + VOTE,
        whole__py="import numpy as np\n"
        "def calibration():\n    yield np.ones((3, 4), dtype=np.float32)\n"
        "def evaluation():\n    yield np.ones((3, 4)), [0, 0, 0]\n",
    )

    assert golden.read(package.serve).inputs["x"].tolist() == [[1.0] * 4] * 3
    assert (package.source / "definition.py").is_file()


FUNCTION = """
outputs = ["scores", "margin"]
[[steps]]
package = "iris"
[[steps]]
function = "steps.py:margin"
outputs = ["margin"]
"""
STEPS = """
import numpy as np
def margin(scores):
    best = np.sort(scores, axis=1)
    return {"margin": best[:, -1:] - best[:, -2:-1]}
"""


def test_a_function_travels_in_the_package_and_its_output_is_learned_from_a_run(exported):
    package = exported(FUNCTION, steps__py=STEPS)

    assert package.manifest.outputs[1] == TensorSpec("margin", "FP32", ("batch", 1))
    assert "serve/functions/steps.py" in package.manifest.files
    assert not [name for name in package.manifest.files if "__pycache__" in name]
    assert all(check.passed for check in verify(package.path))


def test_a_function_that_needs_a_training_library_is_refused(exported):
    with pytest.raises(PackageError, match="it imports 'torch', which a server does not have"):
        exported(FUNCTION, steps__py="import torch\n" + STEPS)


def test_what_a_function_makes_of_sizes_that_may_differ_has_to_be_told(exported, flowers):
    text = """
outputs = ["out"]
[tensors.tokens]
datatype = "INT64"
shape = ["batch", "length"]
[[steps]]
package = "iris"
[[steps]]
function = "steps.py:add"
outputs = ["out"]
"""
    code = "def add(scores, tokens):\n    return {'out': scores + tokens.sum(1, keepdims=True)}\n"
    np.savez(flowers / "rows.npz", x=np.ones((3, 4), np.float32), tokens=np.ones((3, 5), int))
    options = {"calibration": str(flowers / "rows.npz")}
    with pytest.raises(DefinitionError, match="nothing tells the shape of the output 'out'") as got:
        exported(text, options=options, steps__py=code)
    assert "[tensors.out]" in got.value.hint

    told = text + '[tensors.out]\ndatatype = "FP64"\nshape = ["batch", 3]\n'
    package = exported(told, options=options, steps__py=code)
    assert package.manifest.inputs[1].shape == ("batch", "length")


def test_without_rows_for_every_input_made_up_ones_are_used_and_said(exported):
    text = """
outputs = ["out"]
[tensors.shift]
datatype = "FP32"
shape = ["batch", 3]
[[steps]]
package = "iris"
[[steps]]
operation = "mean"
inputs = ["scores", "shift"]
output = "out"
"""
    assert exported(text).manifest.sample == "synthetic"


def test_one_package_that_two_steps_run_is_shipped_once(exported):
    text = """
outputs = ["a", "b"]
[[steps]]
package = "iris"
outputs = { scores = "a" }
[[steps]]
name = "again"
package = "iris"
inputs = { x = "y" }
outputs = { scores = "b" }
"""
    package = exported(text)

    assert [each.name for each in (package.serve / "members").iterdir()] == ["iris"]
    assert [spec.name for spec in package.manifest.inputs] == ["x", "y"]
    assert package.manifest.processing.input is None, "a table feeds x alone"


def test_an_ensemble_may_stand_in_an_ensemble(exported, flowers, tmp_path):
    (tmp_path / "flowers" / "inner").parent.mkdir(exist_ok=True)
    exported(target="flowers/inner")
    text = VOTE.replace('"other"', '"inner"')
    package = exported(text)
    engine = package.engine()
    try:
        found = engine.run({"x": np.ones((2, 4), np.float32)})
    finally:
        engine.close()

    assert found["scores"].sum(axis=1) == pytest.approx(1)
    assert "serve/members/inner/serve/members/iris/serve/model.onnx" in package.manifest.files
    assert all(check.passed for check in verify(package.path))


STEP = '[[steps]]\npackage = "iris"\n'


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("", "at least one step", "[[steps]]"),
        ("outputs = [", "is no TOML", None),
        (STEP, "answers at least one tensor", "outputs ="),
        ('output = ["scores"]\n' + STEP, "unknown field `output`", "docs/ensembles.md"),
        ('outputs = ["scores"]\n[[steps]]\nname = "x"\n', "step 1 of .* has none of", None),
        ('outputs = ["s"]\n[[steps]]\npackage = "iris"\noperation = "mean"\n', "package and", None),
        ('outputs = ["s"]\n' + STEP + "axis = 1\n", "step 1 \\(iris\\) .*unknown field", None),
        ('outputs = ["s"]\n[[steps]]\npackage = "nowhere"\n', "'.*nowhere' does not exist", None),
        ('outputs = ["score"]\n' + STEP, "answers 'score', which no step", "did you mean 'scores'"),
        ('outputs = ["scores"]\n' + STEP + STEP, "two steps are called 'iris'", "name ="),
        (
            'outputs = ["scores"]\n' + STEP + STEP + 'name = "again"\n',
            "makes 'scores', and so does step 'iris'",
            "another name",
        ),
        (
            'outputs = ["scores"]\n' + STEP + 'inputs = { y = "x" }\n',
            "step 'iris' names 'y', and it takes x",
            None,
        ),
        (
            'outputs = ["scores"]\n' + STEP + 'outputs = { score = "scores" }\n',
            "names 'score', and it makes scores",
            "did you mean",
        ),
        (
            'outputs = ["scores"]\ninputs = ["x", "z"]\n' + STEP,
            "no step takes the input 'z'",
            None,
        ),
        (
            'outputs = ["scores"]\ninputs = ["y"]\n' + STEP,
            "takes 'x', which is no input",
            "until then there are y",
        ),
        (
            'outputs = ["scores"]\n' + STEP + 'inputs = { x = "late" }\n'
            '[[steps]]\noperation = "softmax"\ninputs = ["scores"]\noutput = "late"\n',
            "'late', which only the later step 'softmax' makes",
            "in the order",
        ),
        (
            'outputs = ["out"]\n' + STEP + '[[steps]]\noperation = "median"\n'
            'inputs = ["scores"]\noutput = "out"\n',
            "'median', which does not exist",
            "mean",
        ),
        (
            'outputs = ["out"]\n' + STEP + '[[steps]]\nfunction = "../steps.py:f"\n'
            'outputs = ["out"]\n',
            "is '../steps.py', and there is no such file beside it",
            "plain name",
        ),
        (
            'outputs = ["out"]\n' + STEP + '[[steps]]\nfunction = "steps"\noutputs = ["out"]\n',
            "has the function 'steps'",
            "steps.py:crop",
        ),
        (
            'outputs = ["out"]\n' + STEP + '[[steps]]\nfunction = "steps.py:marg"\n'
            'outputs = ["out"]\n',
            "has no function marg()",
            "did you mean 'margin'",
        ),
        (
            'outputs = ["out"]\n' + STEP + '[[steps]]\nfunction = "steps.py:margin"\n'
            'inputs = ["scoring"]\noutputs = ["out"]\n',
            "names 'scoring', and it takes scores",
            None,
        ),
        (
            'outputs = ["out"]\n[[steps]]\nfunction = "steps.py:margin"\noutputs = ["out"]\n',
            "nothing tells what the input 'scores' is",
            "[tensors.scores]",
        ),
        (
            'outputs = ["out"]\n[[steps]]\noperation = "softmax"\ninputs = ["a"]\noutput = "out"\n'
            '[tensors.a]\ndatatype = "FP32"\nshape = ["batch", 3]\n',
            "has no step that runs a package",
            None,
        ),
        (
            'outputs = ["scores"]\n[tensors.y]\ndatatype = "FP32"\nshape = ["batch"]\n' + STEP,
            "\\[tensors.y\\] .* is no tensor of the ensemble",
            None,
        ),
        (
            'outputs = ["scores"]\n[tensors.x]\ndatatype = "FLOAT"\nshape = ["batch"]\n' + STEP,
            "datatype 'FLOAT'; it can be",
            None,
        ),
        (
            'outputs = ["scores"]\ndefinition = "none.py"\n' + STEP,
            "the definition of .* is 'none.py', and there is no such file",
            None,
        ),
        ('outputs = ["scores"]\n' + STEP + 'name = "a/b"\n', "'a/b' cannot be a step name", None),
    ],
)
def test_a_mistake_in_the_file_is_a_sentence_and_leaves_nothing(
    exported, flowers, tmp_path, text, said, hint
):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(MlserveError, match=said) as caught:
        exported(text, steps__py=STEPS)

    assert hint is None or hint in caught.value.hint
    assert sorted(tmp_path.iterdir()) == before


def test_a_function_that_fails_in_the_dry_run_names_its_step(exported, tmp_path):
    with pytest.raises(MlserveError, match=r"step 'margin' \(steps.py:margin\) failed: 'boxes'"):
        exported(FUNCTION, steps__py="def margin(scores):\n    raise KeyError('boxes')\n")
    assert not (tmp_path / "vote").exists()


def test_a_function_that_loses_rows_is_found_before_anything_is_kept(exported, tmp_path):
    with pytest.raises(MlserveError, match=r"'margin' of step 'margin' has 1 rows for a batch of"):
        exported(FUNCTION, steps__py="def margin(scores):\n    return {'margin': scores[:1]}\n")
    assert not (tmp_path / "vote").exists()


def test_averages_over_classes_of_different_names_are_refused(exported, repack):
    repack(labels=("virginica", "setosa", "versicolor"))

    with pytest.raises(DefinitionError, match=r"averages the classes setosa.* with virginica"):
        exported()


def test_engine_and_device_are_the_members_own(exported):
    with pytest.raises(DefinitionError, match="members have engines of their own"):
        exported(options={"engine": "openvino"})


def test_a_place_that_is_taken_is_refused(exported):
    exported()
    with pytest.raises(PackageError, match="exists already"):
        exported()
    exported(options={"overwrite": True})


def test_steps_that_change_one_model_refuse_an_ensemble(exported, tmp_path):
    from mlserve_cli.package.step import run
    from mlserve_cli.prune.step import PruneStep
    from mlserve_cli.quantize.dynamic import DynamicStep

    package = exported()
    for step in (DynamicStep(), PruneStep()):
        with pytest.raises(StepError, match="is an ensemble of iris, other") as caught:
            run(step, package, tmp_path / "smaller", progress=Silent())
        assert "members' packages" in caught.value.hint


def test_inspect_shows_the_steps(exported, capsys):
    from mlserve_cli.cli.inspect import command

    package = exported(FUNCTION, steps__py=STEPS)
    command(package.path)
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "iris 1, fp32" in shown
    assert "margin() of steps.py" in shown

    command(package.path, as_json=True)
    document = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in document["ensemble"]["steps"]] == ["iris", "margin"]


def test_a_server_of_it_needs_what_its_members_and_functions_need(affine, tmp_path):
    """Without what only a member's own processing would need: nothing of that is run."""
    from mlserve_cli.emit.folder import needs
    from mlserve_cli.emit.requirements import pinned
    from mlserve_cli.runtime.ensemble.declaration import Ensemble, PackageStep

    picture = Processing(input=ImageInput(tensor="x", width=2, height=1, channels=1))
    affine(tmp_path / "serve" / "members" / "m", 2, 0, engine="torch", processing=picture)
    spec = TensorSpec("x", "FP64", ("batch", 2))
    step = PackageStep(name="m", member="m", inputs={"x": "x"}, outputs={"y": "y"})
    declared = Ensemble(
        inputs=(spec,),
        outputs=(TensorSpec("y", "FP64", ("batch", 2)),),
        steps=(step,),
        requirements=("rich>=10",),
    )
    (tmp_path / "serve" / "ensemble.json").write_bytes(declared.to_json())
    manifest = Manifest(
        name="whole",
        version="1",
        variant="ensemble",
        engine="ensemble",
        model="ensemble.json",
        inputs=declared.inputs,
        outputs=declared.outputs,
    )

    pins = pinned(*needs([Package(tmp_path, manifest)]))

    assert "\nrich==" in pins
    assert "\ntorch==" in pins
    assert "\npillow==" not in pins


ONE = 'outputs = ["scores"]\n[[steps]]\npackage = "iris"\n'


def test_processing_may_be_declared_in_the_file(exported):
    output = '[processing.output]\nkind = "values"\ntensor = "scores"\n'
    package = exported('labels = ["a", "b", "c"]\n' + ONE + output)

    assert package.manifest.processing.input == exported(target="b").manifest.processing.input
    assert package.manifest.processing.output == ValuesOutput(tensor="scores")
    assert package.manifest.labels == ("a", "b", "c")


def test_processing_that_does_not_fit_the_tensors_is_refused(exported):
    with pytest.raises(DefinitionError, match="names the output 'score'"):
        exported(ONE + '[processing.output]\nkind = "values"\ntensor = "score"\n')


def test_a_processing_py_of_its_own_travels_along(exported):
    code = "def postprocess(outputs):\n    return [row.tolist() for row in outputs['scores']]\n"
    package = exported(ONE + '[processing.python]\nfile = "answer.py"\n', answer__py=code)
    processor = build(package.manifest, package.serve)

    assert processor.answers({"scores": np.ones((1, 3))}) == [[1.0, 1.0, 1.0]]
    assert "serve/answer.py" in package.manifest.files


def test_softmax_over_a_members_logits_is_answered_without_a_second_one(exported, repack):
    logits = Processing(output=ClassesOutput(tensor="scores", softmax=True, top_k=2))
    repack(processing=logits)
    package = exported(
        'outputs = ["shares"]\n[[steps]]\npackage = "other"\n'
        '[[steps]]\noperation = "softmax"\ninputs = ["scores"]\noutput = "shares"\n'
    )

    assert package.manifest.processing.output == ClassesOutput(tensor="shares", top_k=2)


def test_the_members_own_processing_py_stays_with_it_and_that_is_said(exported, flowers, repack):
    said = []

    class Listening(Silent):
        def say(self, text):
            said.append(text)

    shown = Package.open(flowers / "iris")
    manifest = replace(
        shown.manifest, processing=Processing(python=PythonProcessing()), files=shown.manifest.files
    )
    (shown.serve / "processing.py").write_text("def preprocess(rows):\n    return {}\n")
    entry = next(iter(shown.manifest.files.values()))
    file = (shown.serve / "processing.py").read_bytes()
    listed = replace(entry, size=len(file), sha256=hashlib.sha256(file).hexdigest())
    manifest = replace(manifest, files=manifest.files | {"serve/processing.py": listed})
    (shown.path / "manifest.json").write_bytes(manifest.sealed().to_json())

    package = exported(options={"progress": Listening()})

    assert package.manifest.processing.python is None
    assert package.manifest.processing.input is None
    assert any("processing.py" in text and "stays with it" in text for text in said)


@pytest.mark.parametrize("shape", ["[0, 3]", '["batch", -1]', '["", 3]'])
def test_a_told_shape_of_no_size_is_refused(exported, shape):
    with pytest.raises(DefinitionError, match="sizes are numbers above 0"):
        exported(ONE + f'[tensors.x]\ndatatype = "FP32"\nshape = {shape}\n')


def test_up_says_that_the_file_has_to_be_exported_first(exported, flowers):
    from mlserve_cli.pipeline.serving import recognize

    exported()
    with pytest.raises(PackageError, match="describes an ensemble") as caught:
        recognize(flowers / "ensemble.toml")
    assert "mlserve export" in caught.value.hint


def test_a_clients_wrong_column_is_told_as_by_the_first_package(exported):
    package = exported()
    processor = build(package.manifest, package.serve)

    with pytest.raises(InvalidRequest, match="petal_width"):
        processor.tensors([{"sepal_length": 1, "sepal_width": 1, "petal_length": 1}])
