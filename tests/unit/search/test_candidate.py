from mlserve_cli.search.proposals import Facts, propose

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
