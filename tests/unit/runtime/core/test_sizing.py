import sys
import time
from types import SimpleNamespace
from typing import ClassVar

import msgspec
import numpy as np
import pytest

from mlserve_cli.runtime import measuring, sizing
from mlserve_cli.runtime.engines import EngineOptions
from mlserve_cli.runtime.errors import EngineError
from mlserve_cli.runtime.hardware import Gpu, Hardware
from mlserve_cli.runtime.manifest import BatchProof, Manifest
from mlserve_cli.runtime.sizing import Sizing, choose, measure, thread_counts, tiled
from mlserve_cli.runtime.tensors import TensorSpec

INVARIANT = BatchProof(invariant=True)
SHARED_SCALE = BatchProof(invariant=False, reason="dynamic int8 shares one scale")


def machine(cores=4, memory_gib=8, gpus=()):
    return Hardware(
        cpu_name="CPU",
        logical_cpus=cores,
        physical_cores=cores,
        cpu_quota=None,
        memory_bytes=memory_gib << 30,
        numa_nodes=1,
        isa=(),
        gpus=tuple(Gpu(index, "GPU", gib << 30) for index, gib in enumerate(gpus)),
    )


def model(batch="batch", proof=INVARIANT):
    spec = TensorSpec("x", "FP32", (batch, 4))
    return Manifest(
        name="m", version="1", variant="fp32", inputs=(spec,), outputs=(spec,), batch=proof
    )


def times(threads, base_ms, row_ms, up_to=64):
    """Latencies of a model that costs so much a run and so much a row."""
    found, batch = {}, 1
    while batch <= up_to:
        found[threads, batch] = (base_ms + row_ms * batch) / 1e3
        batch *= 2
    return found


def test_a_tiny_model_runs_on_the_event_loop_with_one_thread():
    latencies = times(4, 0.03, 0.001) | times(1, 0.01, 0.001)

    found = choose(machine(), latencies, model())

    assert (found.inline, found.threads, found.instances) == (True, 1, 1)
    assert "hop to a thread" in found.reasons["inline"]


def test_an_inline_batch_never_holds_the_loop_up_for_long():
    found = choose(machine(1), times(1, 0.05, 0.1), model())

    assert found.inline
    assert 0.05 + 0.1 * found.max_batch <= 2.0


def test_a_model_that_scales_over_the_cores_takes_them_all_in_one_run():
    latencies = times(4, 0.5, 5) | times(1, 0.5, 20)

    found = choose(machine(), latencies, model())

    assert (found.inline, found.threads, found.instances) == (False, 4, 1)
    assert "the 4 cores" in found.reasons["threads"]


def test_a_model_that_does_not_scale_gets_an_instance_for_each_core():
    latencies = times(4, 1, 9) | times(1, 1, 10)

    found = choose(machine(), latencies, model())

    assert (found.threads, found.instances) == (1, 4)
    assert "4 instances of 1" in found.reasons["threads"]


def test_more_instances_need_more_than_noise_to_be_chosen():
    latencies = times(4, 0.1, 2.5) | times(1, 0.1, 9.5)  # 5 % more rows a second together

    assert choose(machine(), latencies, model()).instances == 1


def test_a_model_that_scales_over_half_the_cores_gets_two_instances():
    latencies = times(4, 1, 9) | times(2, 1, 9) | times(1, 1, 40)

    found = choose(machine(), latencies, model())

    assert (found.threads, found.instances) == (2, 2)
    assert "2 instances of 2" in found.reasons["threads"]
    assert "one for each 2 of 4 cores" in found.reasons["instances"]


def test_copies_of_the_weights_that_fill_the_memory_are_not_made():
    latencies = times(4, 1, 9) | times(2, 1, 9) | times(1, 1, 40)

    found = choose(machine(memory_gib=8), latencies, model(), weight_bytes=2 << 30)

    assert (found.threads, found.instances) == (4, 1)


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (8, [8, 4, 2, 1]), (64, [64, 16, 4, 1])],
)
def test_threadthread_counts_between_all_and_one_are_tried(cores, counts):
    assert thread_counts(cores) == counts


def test_a_batch_grows_while_it_brings_rows():
    found = choose(machine(1), times(1, 10, 0.1), model())

    assert found.max_batch == 64


def test_a_batch_stays_small_where_more_rows_bring_nothing():
    found = choose(machine(1), times(1, 0.001, 2), model())

    assert found.max_batch == 1
    assert "less than 5 %" in found.reasons["max_batch"]


def test_a_batch_never_takes_longer_than_a_tenth_of_a_second():
    found = choose(machine(1), times(1, 40, 5), model())

    assert found.max_batch == 8
    assert "over 100" in found.reasons["max_batch"]


def test_rows_that_fill_the_memory_make_the_batch_smaller():
    latencies = times(1, 10, 0.1)

    found = choose(machine(1, memory_gib=1), latencies, model(), row_bytes=64 << 20)

    assert found.max_batch == 4
    assert "quarter of the memory" in found.reasons["max_batch"]


def test_a_row_larger_than_the_memory_still_gets_its_batch_of_one():
    found = choose(machine(1, memory_gib=1), times(1, 10, 0.1), model(), row_bytes=1 << 40)

    assert found.max_batch == 1


def test_a_model_whose_rows_influence_each_other_is_run_row_by_row():
    found = choose(machine(1), {(1, 1): 0.01}, model(proof=SHARED_SCALE))

    assert found.max_batch == 1
    assert "shares one scale" in found.reasons["max_batch"]


def test_a_fixed_batch_is_what_the_model_says():
    found = choose(machine(1), {(1, 16): 0.01}, model(batch=16, proof=SHARED_SCALE))

    assert found.max_batch == 16


def test_instances_are_spread_over_the_gpus():
    hardware = machine(gpus=(80, 80))
    found = choose(hardware, times(1, 0.1, 0.01, 1024), model(), device="cuda")

    assert (found.device, found.instances, found.inline) == ("cuda", 2, False)
    assert [found.options(i, 2).device for i in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


def test_the_smallest_gpu_bounds_the_batch():
    latencies = times(1, 10, 0.001, 1024)
    hardware = machine(memory_gib=1024, gpus=(80, 1))

    found = choose(hardware, latencies, model(), device="cuda", row_bytes=4 << 20)

    assert found.max_batch == 64


def test_a_second_stream_is_used_where_it_answers_more():
    latencies = times(1, 0.1, 0.01, 1024)

    alone = choose(machine(gpus=(80,)), latencies, model(), device="cuda", together=1.01)
    both = choose(machine(gpus=(80,)), latencies, model(), device="cuda", together=1.4)

    assert (alone.instances, both.instances) == (1, 2)
    assert "1.40 times as much" in both.reasons["instances"]


def test_the_memory_that_was_seen_to_be_taken_bounds_the_batch():
    latencies = times(1, 10, 0.001, 1024)

    found = choose(machine(gpus=(80,)), latencies, model(), device="cuda", fits=256)

    assert found.max_batch == 256
    assert "80 %" in found.reasons["max_batch"]


class OnGpu:
    """An engine for both devices: a GPU whose memory a batch of over 8 rows exceeds."""

    made: ClassVar[list] = []
    cpu_s = 0.001
    inputs = outputs = (TensorSpec("x", "FP32", ("batch", 4)),)

    def __init__(self, model, options):
        self.options = options
        self.largest = 0
        OnGpu.made.append(self)

    @staticmethod
    def devices(model):
        return ("cuda", "cpu")

    def free_bytes(self):
        return (100 - 8 * self.largest) << 20 if self.options.device != "cpu" else 0

    def run(self, tensors):
        count = len(tensors["x"])
        if self.options.device == "cpu":
            time.sleep(self.cpu_s)
        elif count > 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        self.largest = max(self.largest, count)
        return {"x": tensors["x"], "scores": tensors["x"]}

    def close(self):
        self.options = None


@pytest.fixture
def on_gpu(iris_package, monkeypatch):
    monkeypatch.setitem(sys.modules, "on_gpu", SimpleNamespace(Engine=OnGpu))
    monkeypatch.setattr(OnGpu, "made", [])
    return iris_package(engine="on_gpu:Engine")


def test_a_gpu_is_measured_until_its_memory_ends(on_gpu):
    OnGpu.made.clear()
    found = measure(on_gpu.path, on_gpu.manifest, machine(gpus=(1,)), budget_s=0.1)

    assert (found.device, found.inline) == ("cuda", False)
    assert found.max_batch <= 4  # 2 · 8 · 8 MiB would leave nothing of 100
    assert all(engine.options is None for engine in OnGpu.made)


def test_a_model_that_the_cpu_answers_at_once_stays_there(on_gpu, monkeypatch):
    monkeypatch.setattr(OnGpu, "cpu_s", 0)
    monkeypatch.setattr(sizing, "INLINE_S", 0.05)  # a busy machine may need more than 0.2 ms
    monkeypatch.setattr(sizing, "INLINE_BATCH_S", 0.05)
    found = measure(on_gpu.path, on_gpu.manifest, machine(gpus=(1,)), budget_s=0.1)

    assert (found.device, found.inline) == ("cpu", True)


def test_without_a_gpu_nobody_asks_for_one(on_gpu):
    found = measure(on_gpu.path, on_gpu.manifest, machine(2), budget_s=0.1)

    assert found.device == "cpu"


def test_a_failure_side_by_side_leaves_one_instance():
    class Fails(OnGpu):
        def run(self, tensors):
            raise RuntimeError("CUDA out of memory")

    engine = Fails(None, EngineOptions())
    assert measuring.side_by_side(engine, {"x": np.zeros((1, 4))}, seconds=1) == 0.0


def test_two_threads_are_timed_together():
    engine = OnGpu(None, EngineOptions())
    inputs = {"x": np.zeros((1, 4), np.float32)}

    assert measuring.side_by_side(engine, inputs, seconds=1.0) > 10  # they sleep 1 ms a run


def test_every_number_that_was_chosen_has_a_reason():
    found = choose(machine(), times(4, 1, 9) | times(1, 1, 10), model())

    assert {"threads", "instances", "max_batch"} <= set(found.reasons)
    assert all(reason and "\n" not in reason for reason in found.reasons.values())


def test_the_same_measurements_give_the_same_numbers():
    latencies = times(4, 1, 9) | times(1, 1, 10)

    assert choose(machine(), latencies, model()) == choose(machine(), latencies, model())


def test_options_carry_what_an_engine_is_loaded_with():
    options = Sizing(threads=3, streams=2, precision="bf16", device="cuda:1").options()

    assert msgspec.structs.astuple(options) == (3, 2, "bf16", "cuda:1", (1, 2, 4, 8, 16, 32))


def test_an_engine_has_a_stream_for_each_instance_that_shares_it():
    assert Sizing(threads=1, instances=4).options().streams == 4
    assert Sizing(threads=2, instances=4).options().streams == 1  # an engine each
    assert Sizing(threads=1, instances=4, device="cuda").options(0, 2).streams == 2


def test_a_gpu_is_prepared_for_every_size_up_to_the_largest_batch():
    sizing = Sizing(max_batch=48, device="cuda")

    assert sizing.options(1, 2).batches == (1, 2, 4, 8, 16, 32, 48)
    assert msgspec.structs.replace(sizing, max_batch=1).options().batches == (1,)
    assert msgspec.structs.replace(sizing, device="cpu").options().batches == ()


def test_rows_are_repeated_and_scalars_are_kept():
    found = tiled({"x": np.arange(3), "threshold": np.array(0.5)}, 5)

    assert found["x"].tolist() == [0, 1, 2, 0, 1]
    assert found["threshold"] == 0.5


def test_a_real_model_is_measured(iris_package):
    package = iris_package()
    found = measure(package.path, package.manifest, machine(2), budget_s=0.1)

    assert found.inline
    assert found.max_batch > 1


def test_a_slow_model_is_measured_only_a_few_times(iris_package, fake_engine, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mlserve_cli.runtime.measuring.time.perf_counter", lambda: now[0])

    def slow(engine, tensors):
        now[0] += 10.0
        return {"scores": tensors["x"]}

    package = iris_package(engine=fake_engine(slow))
    before = len(fake_engine.made)
    found = measure(package.path, package.manifest, machine(2))

    assert [engine.sizes for engine in fake_engine.made[before:]] == [[1, 1], [1, 1]]
    assert all(engine.closed for engine in fake_engine.made)
    assert found.max_batch == 1


def visited(iris_package, fake_engine, monkeypatch, seconds):
    """The batch sizes that are run, by a clock of the test's own, where `n` rows take so long."""
    now = [0.0]
    monkeypatch.setattr("mlserve_cli.runtime.measuring.time.perf_counter", lambda: now[0])

    def run(engine, tensors):
        now[0] += seconds(len(tensors["x"]))
        return {"scores": tensors["x"]}

    package = iris_package(engine=fake_engine(run))
    before = len(fake_engine.made)
    measure(package.path, package.manifest, machine(1), budget_s=100.0)
    return {size for engine in fake_engine.made[before:] for size in engine.sizes}


def test_no_larger_batches_are_run_once_four_times_the_rows_bring_nothing(
    iris_package, fake_engine, monkeypatch
):
    found = visited(iris_package, fake_engine, monkeypatch, lambda count: count * 1e-3)

    assert found == {1, 2, 4}


def test_batches_grow_while_each_brings_a_little(iris_package, fake_engine, monkeypatch):
    found = visited(iris_package, fake_engine, monkeypatch, lambda count: count**0.95 * 1e-3)

    assert found == {1, 2, 4, 8, 16, 32, 64}


def test_a_model_that_fails_on_its_own_rows_is_a_sentence(iris_package, fake_engine):
    package = iris_package(engine=fake_engine())

    def fail(engine, tensors):
        raise RuntimeError

    fake_engine(fail)
    with pytest.raises(EngineError, match=r"'iris' 1 fails on its own golden rows, 1 at a time: "):
        measure(package.path, package.manifest, machine(1))
    assert fake_engine.made[-1].closed
