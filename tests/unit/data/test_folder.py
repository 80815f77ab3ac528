import numpy as np
import pytest

from mlserve_cli.errors import DataError
from mlserve_cli.runtime.processing.declaration import ImageInput, Processing


@pytest.fixture
def manifest(make_manifest):
    declared = ImageInput(tensor="x", width=4, height=4, channels=1)
    return make_manifest(
        ("x", "FP32", (1, 4, 4)),
        processing=Processing(input=declared),
        labels=("cat", "dog"),
    )


@pytest.fixture
def draw(tmp_path):
    def draw(name, grey):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        from PIL import Image

        Image.new("L", (8, 8), grey).save(path)
        return tmp_path / "pictures"

    return draw


def test_pictures_come_in_the_order_of_their_names_with_their_folders_class(load, draw, manifest):
    draw("dog/b.png", 51)
    draw("dog/a.PNG", 255)
    folder = draw("cat/z.jpg", 0)
    batches = load(folder, manifest, batch=2)
    assert [batch.size for batch in batches] == [2, 1]
    means = np.concatenate([batch.inputs["x"] for batch in batches]).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, [0.0, 1.0, 0.2], atol=0.01)
    assert np.concatenate([batch.targets for batch in batches]).tolist() == [0, 1, 1]


def test_pictures_without_sub_folders_have_no_targets(load, draw, manifest):
    (batch,) = load(draw("one.png", 9), manifest)
    assert batch.targets is None


def test_a_folder_named_after_no_label_is_an_error_unless_targets_are_not_wanted(
    load, draw, manifest
):
    folder = draw("cow/one.png", 9)
    with pytest.raises(DataError, match=r"'cow' .* is named after no label") as error:
        load(folder, manifest)
    assert error.value.hint == "the labels are cat, dog"
    assert len(load(folder, manifest, targets=False)) == 1


def test_a_picture_beside_the_classes_is_an_error(load, draw, manifest):
    draw("cat/one.png", 9)
    with pytest.raises(DataError, match="lies beside the sub-folders"):
        load(draw("stray.png", 9), manifest)


def test_a_damaged_picture_is_named(load, draw, manifest):
    folder = draw("a.png", 9)
    (folder / "b.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"b\.png': the image is damaged"):
        load(folder, manifest)


def test_a_folder_without_pictures_is_an_error(load, tmp_path, manifest):
    with pytest.raises(DataError, match="holds no pictures"):
        load(tmp_path, manifest)


def test_a_package_that_takes_no_pictures_says_so(load, draw, make_manifest):
    with pytest.raises(DataError, match="does not declare how a picture becomes a tensor"):
        load(draw("a.png", 9), make_manifest())
