from mlserve_cli.search.candidate import Facts, propose

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
    assert names(has_rows=False) == ["int8-dynamic"]
    assert names(has_rows=False, operators=frozenset({"Conv", "Relu"})) == []


def test_a_forest_of_trees_has_nothing_to_quantize():
    assert names(operators=frozenset({"TreeEnsembleClassifier", "Normalizer"})) == []


def test_what_is_quantized_already_is_not_quantized_again():
    assert names(quantized=True) == []


def test_openvino_is_tried_only_where_it_runs_and_bf16_only_where_the_cpu_has_it():
    assert not any("openvino" in name for name in names())
    there = names(engines=("onnxruntime", "openvino"))
    assert "openvino" in there
    assert "openvino-int8-minmax" in there
    assert "openvino-bf16" not in there
    assert "openvino-bf16" in names(
        engines=("onnxruntime", "openvino"), isa=frozenset({"amx_bf16"})
    )


def test_two_candidates_share_a_key_only_if_they_make_the_same():
    found = propose(Facts(**CNN))
    keys = [each.key for each in found]
    assert len(set(keys)) == len(keys)
    assert found[0].excluding(["b", "a"]).key == found[0].excluding(["a", "b"]).key
    assert found[0].excluding(["a"]).key != found[0].key
    assert found[0].steps[0].parameters.get("exclude") is None
