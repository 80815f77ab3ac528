import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.errors import PackageError
from mlserve_cli.package.package import Package
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import recipe
from mlserve_cli.pipeline.recipe import Recipe, RecipeError
from mlserve_cli.pipeline.replay import replay

VALUES = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e6, 1e6), st.text(max_size=20),
    st.lists(st.text(max_size=9), max_size=3),
)  # fmt: skip
NAMES = st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True)


@given(
    steps=st.lists(st.dictionaries(NAMES, VALUES, max_size=4), max_size=3),
    target=st.none() | st.text(min_size=1, max_size=9),
)
def test_what_was_written_is_read_again(tmp_path_factory, steps, target):
    path = tmp_path_factory.mktemp("r") / "recipe.toml"
    wanted = Recipe(
        source="nowhere.py",
        digest="sha256:1",
        steps=tuple({**step, "step": "quantize"} for step in steps),
        data="no.csv",
        target=target,
        max_drop=0.5,
    )
    recipe.write(wanted, path)
    assert recipe.read(path) == wanted


def test_paths_are_kept_relative_to_the_recipe_so_that_both_can_be_moved(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.py").touch()
    (tmp_path / "a" / "rows.py").touch()
    monkeypatch.chdir(tmp_path)
    step = {"step": "distill", "teacher": "a/model.py", "hints": "auto"}
    recipe.write(
        Recipe(source="a/model.py", calibration="a/rows.py:some", steps=(step,)),
        tmp_path / "a" / "r.toml",
    )
    (tmp_path / "a").rename(tmp_path / "b")
    found = recipe.read(tmp_path / "b" / "r.toml")
    assert found.source == str(tmp_path / "b" / "model.py")
    assert found.calibration == str(tmp_path / "b" / "rows.py") + ":some"
    assert found.steps == ({**step, "teacher": str(tmp_path / "b" / "model.py")},)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("schema = 2\nsource = 'a'", "the schema of"),
        ("source = 'a'", "the schema of"),
        ("schema = 1\nsource = 'a'\ncolour = 1", "has 'colour'"),
        ("schema = 1\nsource = 'a'\n[data]\nrows = 'x'", "has 'rows'"),
        ("schema = 1\nsource = 1", "is no recipe"),
        ("schema = 1", "is no recipe"),
        ("schema = 1\nsource = 'a'\n[[steps]]\nmethod = 'static'", "step 1 of"),
        ("schema = ", "is no recipe"),
        ("schema = 1\nsource = 'a'\nmax_drop = nan", "max_drop of .* is nan"),
        ("schema = 1\nsource = 'a'\nmax_drop = -0.5", "max_drop of .* is -0.5"),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_reason(tmp_path, text, says):
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        recipe.read(path)


def test_a_recipe_that_is_not_there_is_a_sentence(tmp_path):
    with pytest.raises(RecipeError, match="cannot be read"):
        recipe.read(tmp_path / "none.toml")


def test_a_recipe_is_not_replayed_over_the_package_that_it_starts_from(iris_package, tmp_path):
    parent = iris_package()
    with pytest.raises(PackageError, match="is what it would be made from"):
        replay(
            Recipe(source=str(parent.path)),
            parent.path,
            progress=Silent(),
            overwrite=True,
            cache=tmp_path / "cache",
        )
    assert Package.open(parent.path).manifest.digest == parent.manifest.digest
    assert not (tmp_path / "cache").exists()
