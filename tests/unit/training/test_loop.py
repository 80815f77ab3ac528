# ruff: noqa: TID253
import json
import signal

import pytest
import torch
from safetensors import safe_open

from mlserve_cli.errors import StepError
from mlserve_cli.package.definition import Metric
from mlserve_cli.package.progress import Silent
from mlserve_cli.training import precision
from mlserve_cli.training.checkpoint import Checkpoints
from mlserve_cli.training.divergence import Diverged, Losses
from mlserve_cli.training.inputs import batches
from mlserve_cli.training.loop import train
from mlserve_cli.training.losses import task_loss
from mlserve_cli.training.options import TrainingOptions
from mlserve_cli.training.schedule import cosine
from mlserve_cli.training.soft import asked
from mlserve_cli.training.validation import Validation


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


def test_a_network_over_volumes_learns_and_teaches():
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv3d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(16, 2)
    )
    volumes, classes = torch.randn(8, 1, 4, 4, 4), torch.arange(8) % 2
    before = module[0].weight.detach().clone()
    train(
        module,
        lambda: [((volumes,), classes)],
        options=TrainingOptions(epochs=1, precision="fp32"),
        loss=torch.nn.functional.cross_entropy,
        seed=0,
        progress=Silent(),
    )
    assert not torch.equal(module[0].weight, before)
    assert asked(module, kind="fp32")((volumes,)).shape == (8, 2)


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


def test_bf16_is_chosen_only_where_it_pays(monkeypatch):
    class Machine:
        isa: tuple[str, ...] = ()

    nn = torch.nn
    convolutions = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Linear(64, 10))
    products = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    patches = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Linear(192, 192), nn.Linear(192, 192))
    pieces = nn.Sequential(nn.Embedding(5000, 64), nn.Conv1d(64, 64, 3), nn.Linear(64, 10))
    machine = Machine()
    monkeypatch.setattr(precision.hardware, "detect", lambda: machine)

    def chosen(*networks):
        return [precision.choose("auto", "cpu", each) for each in networks]

    assert chosen(convolutions, products) == ["fp32", "fp32"]
    machine.isa = ("avx2", "avx512_vnni", "avx512_bf16")
    assert chosen(convolutions, pieces) == ["fp32", "fp32"]
    assert chosen(products, patches) == ["bf16", "bf16"]
    assert precision.choose("bf16", "cpu", convolutions) == "bf16"
    assert precision.choose("fp32", "cpu", products) == "fp32"
    machine.isa = ("avx2", "avx512_bf16", "amx_bf16")
    assert chosen(convolutions, products) == ["bf16", "bf16"]


def small(rows=64, *, seed=0):
    """Two overlapping clouds of points: batches in the same order each time, and one network."""
    draws = torch.Generator().manual_seed(seed)
    points = torch.randn(rows, 4, generator=draws)
    classes = (points[:, 0] + 0.5 * torch.randn(rows, generator=draws) > 0).long()
    points[:, 0] += classes
    torch.manual_seed(1)
    module = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    return module, [((points[at : at + 8],), classes[at : at + 8]) for at in range(0, rows, 8)]


def fit(module, batches, *, validation=None, progress=None, loss=None, **options):
    return train(
        module,
        lambda: batches,
        options=TrainingOptions(**{"precision": "fp32"} | options),
        loss=loss or torch.nn.functional.cross_entropy,
        seed=0,
        progress=progress or Silent(),
        validation=validation,
    )


def scripted(values, *, higher_is_better=True):
    """A validation whose metric is what the script says, epoch after epoch."""
    rest = iter(values)
    return Validation(
        batches=lambda: [((torch.zeros(2, 4),), torch.zeros(2, dtype=torch.long))],
        metric=Metric(name="quality", higher_is_better=higher_is_better, unit=""),
        score=lambda outputs, targets: next(rest),
    )


def test_the_average_ends_nearer_to_the_middle_than_the_last_step():
    """With decay d the average after each step is d · average + (1 − d) · weights."""
    module, batches = small()
    fit(module, batches, epochs=1, ema=0.9)
    followed, seen = small()[0], []

    class Following(Silent):
        def advance(self, steps=1, note=""):
            seen.append(followed[0].weight.detach().clone())

    first = followed[0].weight.detach().clone()
    fit(followed, batches, epochs=1, progress=Following())
    expected = first
    for step, weights in enumerate(seen, 1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    assert torch.allclose(module[0].weight, expected, atol=1e-6)
    assert not torch.allclose(module[0].weight, followed[0].weight, atol=1e-4)


def test_training_stops_when_patience_ends_and_keeps_the_best_epoch():
    module, batches = small()
    history = fit(module, batches, epochs=9, patience=2, validation=scripted([1, 3, 2, 3, 9]))
    assert [epoch.validation for epoch in history.epochs] == [1, 3, 2, 3]
    assert history.kept == 2
    assert "stopped after epoch 4" in history.stopped
    assert not history.diverged
    best, _ = small()
    fit(best, batches, epochs=9, patience=1, validation=scripted([1, 3, 2]))
    assert torch.equal(module[0].weight, best[0].weight)


def test_a_metric_that_should_fall_is_best_where_it_is_lowest():
    module, batches = small()
    history = fit(
        module,
        batches,
        epochs=5,
        patience=2,
        validation=scripted([3, 1, float("nan"), 2], higher_is_better=False),
    )
    assert (history.kept, len(history.epochs)) == (2, 4)


def test_without_patience_the_last_epoch_is_kept_whatever_validation_says():
    module, batches = small()
    history = fit(module, batches, epochs=3, validation=scripted([9, 2, 1]))
    last, _ = small()
    fit(last, batches, epochs=3)
    assert history.kept == 3
    assert torch.equal(module[0].weight, last[0].weight)


def test_a_loss_that_diverges_later_leaves_the_best_weights_so_far():
    module, batches = small()
    steps = iter(range(1000))

    def loss(outputs, targets):
        value = torch.nn.functional.cross_entropy(outputs, targets)
        return value * float("nan") if next(steps) == 2 * len(batches) + 3 else value

    history = fit(module, batches, epochs=4, loss=loss)
    assert history.diverged
    assert history.kept == 2
    assert "the loss is nan at step 4 of epoch 3" in history.stopped
    assert "the weights of epoch 2 are kept" in history.stopped
    assert all(bool(each.isfinite().all()) for each in module.state_dict().values())
    assert not module.training


def test_losses_of_a_gpu_are_looked_at_now_and_then_and_none_is_missed():
    losses = Losses(every=3)
    for value in (1.0, float("nan")):
        losses.add(torch.tensor(value))
    assert losses.note == ""
    with pytest.raises(Diverged, match="nan at step 2"):
        losses.add(torch.tensor(1.0))
    losses = Losses(every=3)
    losses.add(torch.tensor(2.0))
    losses.add(torch.tensor(4.0))
    assert losses.mean() == 3.0


def test_a_batch_for_a_gpu_is_pinned_in_its_layout(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pinned.append(self) or self)
    images, classes = torch.rand(2, 3, 4, 4), torch.zeros(2)
    (found,), targets = precision.ready(((images,), {"class": classes}), "cuda")
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, images)
    assert targets["class"] is classes
    assert len(pinned) == 2
    pinned.clear()
    precision.ready(((images,), classes), "cpu")
    assert pinned == []


def test_a_gpu_computes_in_bf16_if_it_can(monkeypatch):
    hardware = {"emulated": True, "real": True}

    def supported(including_emulation=True):
        return hardware["real"] or (including_emulation and hardware["emulated"])

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    module = torch.nn.Linear(2, 2)
    assert precision.choose("auto", "cuda", module) == "bf16"
    hardware["real"] = False
    assert precision.choose("auto", "cuda", module) == "fp32"


@pytest.mark.gpu
def test_the_same_loop_trains_on_a_gpu_in_bf16_and_resumes(mixed, tmp_path):
    module, history = run(mixed, epochs=4)
    assert history.precision == "bf16"
    assert history.losses[-1] < history.losses[0] / 2
    assert {each.device.type for each in module.parameters()} == {"cpu"}


def test_ctrl_c_waits_for_the_end_of_the_step_and_a_checkpoint(tmp_path):
    """The signal comes in the middle of a forward pass; it is raised after the step, once."""
    module, batches = small()
    calls = iter(range(100))

    def loss(outputs, targets):
        if next(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        return torch.nn.functional.cross_entropy(outputs, targets)

    keeper = Checkpoints(folder=tmp_path, seconds=1e9).stage("one")
    with pytest.raises(KeyboardInterrupt):
        train(
            module,
            lambda: batches,
            options=TrainingOptions(epochs=2, precision="fp32"),
            loss=loss,
            seed=0,
            progress=Silent(),
            keeper=keeper,
        )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with safe_open(tmp_path / "one.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["facts"])["steps"] == 5
