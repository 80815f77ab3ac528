# ruff: noqa: TID253
import pytest
import torch

from mlserve_cli.errors import StepError
from mlserve_cli.package.progress import Silent
from mlserve_cli.training import precision
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.schedule import cosine


def run(definition, *, seed=0, module=None, progress=None, once=None, **changes):
    options = TrainingOptions.of(definition, **changes)
    module = module or definition.function("model")()
    history = train(
        module,
        once or batches(definition, ("image",)),
        options=options,
        loss=task_loss(definition, options),
        seed=seed,
        progress=progress or Silent(),
    )
    return module, history


class Recorder(Silent):
    def __init__(self):
        self.totals, self.notes = [], []

    def stage(self, text, total=None):
        self.totals.append(total)

    def advance(self, steps=1, note=""):
        self.notes.append(note)


def test_the_loss_falls_and_the_network_learns_real_digits(mixed):
    module, history = run(mixed, epochs=4)
    assert history.losses[-1] < history.losses[0] / 2
    images, classes = mixed.function("splits")()[1]
    right = (module(torch.tensor(images)).argmax(1).numpy() == classes).mean()
    assert right > 0.8


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(mixed, kind):
    first, _ = run(mixed, epochs=1, precision=kind)
    second, _ = run(mixed, epochs=1, precision=kind)
    for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_other_weights(mixed):
    first, _ = run(mixed, epochs=1, seed=1)
    second, _ = run(mixed, epochs=1, seed=2)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_a_trained_network_is_in_eval_mode_contiguous_and_float32(mixed):
    module, _ = run(mixed, epochs=1, precision="bf16")
    assert not any(layer.training for layer in module.modules())
    assert all(each.is_contiguous() for each in module.parameters())
    assert {each.dtype for each in module.parameters()} == {torch.float32}


def test_frozen_parameters_stay_as_they_are(mixed):
    module = mixed.function("model")()
    module.stem.requires_grad_(False)
    before = module.stem.weight.clone()
    run(mixed, module=module, epochs=1)
    assert torch.equal(module.stem.weight, before)


def test_adamw_trains_too(mixed):
    _, history = run(mixed, epochs=2, optimizer="adamw", learning_rate=3e-3)
    assert history.losses[-1] < history.losses[0]


def test_progress_counts_every_step_and_shows_the_loss(mixed):
    recorder = Recorder()
    _, history = run(mixed, epochs=2, progress=recorder)
    assert recorder.totals == [history.steps] == [40]
    assert len(recorder.notes) == 40
    assert recorder.notes[0].startswith("loss ")


@pytest.mark.parametrize("change", [{"clip": 0.0, "learning_rate": 1e6}, {"learning_rate": 300.0}])
def test_a_loss_that_diverges_ends_in_a_sentence(mixed, change):
    with pytest.raises(StepError, match="training diverged: the loss is") as caught:
        run(mixed, epochs=3, **change)
    assert "learning_rate" in caught.value.hint


def test_training_that_yields_nothing_is_refused(mixed):
    with pytest.raises(StepError, match="yields no batches"):
        run(mixed, once=lambda: iter(()))


def test_inputs_that_do_not_fit_are_a_sentence(mixed):
    wrong = [((torch.zeros(4, 3, 8, 8),), torch.zeros(4, dtype=torch.long))]
    with pytest.raises(StepError, match="a training step fails") as caught:
        run(mixed, once=lambda: wrong)
    assert "\n" not in caught.value.message


def test_a_class_beyond_the_outputs_is_a_sentence(mixed):
    wrong = [((torch.zeros(4, 1, 8, 8),), torch.full((4,), 10))]
    with pytest.raises(StepError, match="a training step fails"):
        run(mixed, once=lambda: wrong)


def test_a_list_of_batches_is_counted_without_going_through_it(mixed):
    class Counted(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            return super().__iter__()

    once = Counted([((torch.rand(8, 1, 8, 8),), torch.arange(8))] * 2)
    run(mixed, once=lambda: once, epochs=3)
    assert once.passes == 3


def test_the_schedule_rises_to_one_and_falls_to_nearly_nothing():
    factor = cosine(100, 0.1)
    values = [factor(step) for step in range(100)]
    assert values[0] == pytest.approx(0.1)
    assert max(values) == 1.0 == values[10]
    assert values[10:] == sorted(values[10:], reverse=True)
    assert 0 <= values[-1] < 0.01


def test_bf16_is_chosen_only_where_the_machine_computes_in_it(monkeypatch):
    class Machine:
        isa: tuple[str, ...] = ()

    machine = Machine()
    monkeypatch.setattr(precision.hardware, "detect", lambda: machine)
    assert precision.choose("auto", "cpu") == "fp32"
    machine.isa = ("avx2", "amx_bf16")
    assert precision.choose("auto", "cpu") == "bf16"
    assert precision.choose("fp32", "cpu") == "fp32"
