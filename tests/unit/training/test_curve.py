import pytest

from mlserve_cli.training.curve import Epoch, History


def history(*losses, steps=1000, **more):
    epochs = tuple(Epoch(loss, 0.1) for loss in losses)
    return History(epochs=epochs, steps=steps, seconds=1.0, precision="fp32", **more)


def test_one_epoch_has_one_loss_and_several_have_two():
    assert history(2.0, steps=20).sentence() == "1 epoch, 20 steps in fp32: loss 2.000"
    assert "3 epochs, 1,000 steps in fp32: loss 2.000 → 0.500" in history(2.0, 1.0, 0.5).sentence()


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (history(2.0, 1.0), "still fell by 50%"),
        (history(2.0, 1.0, 0.95), ""),
        (history(2.0, 1.0, 0.95, steps=20), "20 steps are few"),
        (history(2.0, steps=20), "20 steps are few"),
        (history(2.0), ""),
        (history(1.0, 1.3), ""),
        (history(2.0, 1.0, stopped="no better for 3 epochs"), ""),
        (history(steps=0), ""),
    ],
)
def test_the_curve_says_whether_a_longer_training_is_worth_a_try(made, says):
    assert made.facts()["advice"] == made.advice()
    assert says in made.advice()
    assert bool(made.advice()) == bool(says)
