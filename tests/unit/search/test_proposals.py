from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.proposals import Facts, propose
from mlserve_cli.search.trial import Speed, Trial

CNN = {
    "operators": frozenset({"Conv", "Relu", "Gemm"}),
    "quantized": False,
    "has_rows": True,
    "engines": ("onnxruntime",),
    "isa": frozenset({"avx2", "avx512_vnni"}),
}


def names(**changes):
    return [each.name for each in propose(Facts(**(CNN | changes)))]


def test_static_int8_needs_rows_and_dynamic_needs_products():
    assert names()[0] == "int8-minmax"
    assert "int8-dynamic" in names()
    assert names(has_rows=False) == ["int8-dynamic", "int8-weights"]
    assert names(has_rows=False, operators=frozenset({"Conv", "Relu"})) == []


def test_each_remedy_is_tried_where_it_can_help():
    assert "int8-corrected" in names()
    assert "int8-smooth" not in names()
    transformer = names(operators=frozenset({"MatMul", "LayerNormalization"}))
    assert "int8-smooth" in transformer
    assert "int8-corrected" not in transformer


def test_a_forest_of_trees_has_nothing_to_quantize():
    assert names(operators=frozenset({"TreeEnsembleClassifier", "Normalizer"})) == []


def test_what_is_quantized_already_is_not_quantized_again():
    assert names(quantized=True) == []


def test_bf16_is_tried_only_where_an_engine_and_the_cpu_have_it():
    assert "bf16" not in names()
    both = ("onnxruntime", "openvino")
    assert "bf16" not in names(engines=both)
    assert names(engines=both, isa=frozenset({"amx_bf16"}))[0] == "bf16"
    assert "bf16" not in names(isa=frozenset({"amx_bf16"}))


def test_two_candidates_share_a_key_only_if_they_make_the_same():
    found = propose(Facts(**CNN))
    keys = [each.key for each in found]
    assert len(set(keys)) == len(keys)
    assert found[0].excluding(["b", "a"]).key == found[0].excluding(["a", "b"]).key
    assert found[0].excluding(["a"]).key != found[0].key
    assert found[0].steps[0].parameters.get("exclude") is None


def tried(candidate, state="passed", ms=1.0, engine="onnxruntime"):
    return Trial(
        key=candidate.key,
        name=candidate.name,
        steps=tuple(step.document() for step in candidate.steps),
        state=state,
        engine=engine,
        speeds=(
            Speed(batch=1, p50_ms=ms, p50_low_ms=ms, p50_high_ms=ms, rows_per_s=1e3 / ms),
        ),
    )  # fmt: skip


def test_the_best_int8_models_are_handed_to_openvino_once_the_float_model_ran_there():
    facts = Facts(**(CNN | {"engines": ("onnxruntime", "openvino")}))
    first = {each.name: each for each in propose(facts)}
    assert "openvino" in first
    assert "int8-minmax-openvino" not in first
    done = [
        tried(each, ms=2.0 if name == "int8-mse" else 1.0, engine=name)
        if name == "openvino"
        else tried(each, ms=2.0 if name == "int8-mse" else 1.0)
        for name, each in first.items()
        if name in ("openvino", "int8-mse", "int8-minmax", "int8-corrected")
    ]
    after = [each.name for each in propose(facts, done) if each.name.endswith("-openvino")]
    assert after == ["int8-minmax-openvino", "int8-corrected-openvino"]
    dead = [tried(each, "failed") for each in first.values() if each.name == "openvino"]
    int8 = [each for each in done if each.name != "openvino"]
    later = [each.name for each in propose(facts, [*dead, *int8])]
    assert not [name for name in later if "openvino" in name]


def test_the_two_fastest_int8_encoders_are_tried_again_with_attention_as_one_operator():
    facts = Facts(**(CNN | {"operators": frozenset({"MatMul", "Softmax", "LayerNormalization"})}))
    first = {each.name: each for each in propose(facts)}
    assert not [name for name in first if name.endswith("-fused")]
    times = {"int8-minmax": 1.0, "int8-mse": 3.0, "int8-smooth": 2.0}
    done = [tried(first[name], ms=ms) for name, ms in times.items()]
    after = {each.name: each for each in propose(facts, done) if each.name.endswith("-fused")}
    assert list(after) == ["int8-minmax-fused", "int8-smooth-fused"]
    smooth = after["int8-smooth-fused"].steps[-1].parameters
    assert (smooth["fuse"], smooth["smooth"]) == (True, True)
    again = [*done, *(tried(each) for each in after.values())]
    assert not [each for each in propose(facts, again) if each.name.endswith("-fused-fused")]


def test_torch_is_tried_only_with_a_module_and_for_speed():
    engines = ("onnxruntime", "torch")
    isa = frozenset({"avx512_bf16"})
    assert "torch" not in names(engines=engines)
    assert "torch" in names(engines=engines, has_module=True)
    assert "torch-bf16" in names(engines=engines, has_module=True, isa=isa)
    assert "torch" not in names(engines=engines, has_module=True, target="size")


def test_other_quantizers_are_asked_only_where_ours_lose_too_much():
    facts = Facts(**(CNN | {"quantizers": ("nncf", "neural-compressor"), "has_module": True}))
    static = [each for each in propose(facts) if each.name.startswith("int8-m")]
    lossy = [tried(each, "inaccurate") for each in static]
    assert "int8-nncf" not in [each.name for each in propose(facts)]
    asked = [each.name for each in propose(facts, lossy)]
    assert {"int8-nncf", "int8-neural-compressor"} <= set(asked)
    one_passed = [*lossy[1:], tried(static[0])]
    assert "int8-nncf" not in [each.name for each in propose(facts, one_passed)]
    bare = Facts(**(CNN | {"quantizers": ()}))
    assert "int8-nncf" not in [each.name for each in propose(bare, lossy)]


def test_a_further_generator_is_all_that_a_further_way_takes():
    pruned = Candidate(
        name="half", steps=(StepChoice(step="prune", parameters={"ratio": 0.5}),), why="half"
    )

    def shapes(facts, trials):
        yield pruned
        for trial in trials:
            if trial.key == pruned.key:
                int8 = StepChoice(step="quantize", parameters={"method": "static"})
                yield trial.candidate.then("half-int8", int8, why="both")

    facts = Facts(**CNN)
    assert [each.name for each in propose(facts, generators=(shapes,))] == ["half"]
    found = propose(facts, [tried(pruned)], generators=(shapes,))
    assert [[step.step for step in each.steps] for each in found] == [["prune", "quantize"]]
