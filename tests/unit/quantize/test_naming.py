import pytest

from mlserve_cli.quantize.naming import variant


@pytest.mark.parametrize(
    ("parent", "expected"),
    [
        ("fp32", "int8-static"),
        ("pruned-fp32", "pruned-int8-static"),
        ("distilled-pruned-fp32", "distilled-pruned-int8-static"),
        ("fp16", "int8-static"),
        ("fp32-torch", "int8-static-torch"),
        ("small", "small-int8-static"),
    ],
)
def test_the_precision_is_replaced_and_the_structure_kept(parent, expected):
    assert variant(parent, "int8-static") == expected
