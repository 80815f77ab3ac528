import pytest

from mlserve_cli.cli.predict import _spare_inputs
from mlserve_cli.errors import Refused


@pytest.mark.parametrize("source", ["rows.csv", "*.csv", ".", "link.csv"])
def test_an_output_that_is_one_of_the_inputs_is_refused(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("a\n1\n", encoding="utf-8")
    (tmp_path / "link.csv").symlink_to("rows.csv")
    with pytest.raises(Refused, match="would lose them"):
        _spare_inputs([source], "rows.csv")
    _spare_inputs([source], "answers.csv")
