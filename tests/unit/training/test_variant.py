import pytest

from mlserve_cli.training.variant import prefixed


@pytest.mark.parametrize(
    ("word", "variant", "expected"),
    [
        ("pruned", "fp32", "pruned-fp32"),
        ("pruned", "pruned-fp32", "pruned2-fp32"),
        ("pruned", "pruned9-fp32", "pruned10-fp32"),
        ("distilled", "pruned2-fp32", "distilled-pruned2-fp32"),
        ("pruned", "distilled-pruned-fp32", "pruned-distilled-pruned-fp32"),
    ],
)
def test_the_newest_step_comes_first_and_repeats_are_counted(word, variant, expected):
    assert prefixed(word, variant) == expected
