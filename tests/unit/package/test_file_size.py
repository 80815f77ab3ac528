import pytest

from mlserve_cli.package import file_size


@pytest.mark.parametrize(
    ("count", "text", "column"),
    [
        (44_700_000, "44.70 MB", "44.70"),
        (90_000, "0.09 MB", "0.09"),
        (4_096, "4.1 kB", "0.0041"),
        (512, "512 bytes", "0.00051"),
        (0, "0 bytes", "0"),
    ],
)
def test_a_size_keeps_two_figures_however_small_it_is(count, text, column):
    assert file_size.text(count) == text
    assert file_size.megabytes(count) == column
