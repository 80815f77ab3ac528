from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.search.choice import best, choose, cost, front
from mlserve_cli.search.trial import Accuracy, Speed, Trial


def trial(name, ms, drop, *, state="passed", size=1000, batch8=None, steps=(), low=1.5):
    ratio = {"speed_up": 4 / ms, "speed_up_low": low, "speed_up_high": 9.0}
    speeds = [
        Speed(batch=1, p50_ms=ms, p50_low_ms=ms, p50_high_ms=ms, rows_per_s=1e3 / ms, **ratio)
    ]
    if batch8 is not None:
        speeds.append(
            Speed(batch=8, p50_ms=batch8, p50_low_ms=batch8, p50_high_ms=batch8,
                  rows_per_s=8e3 / batch8)
        )  # fmt: skip
    accuracy = Accuracy(metric="a", unit="points", value=90 - drop, low=0, high=100, n=9, drop=drop)
    return Trial(
        key=name, name=name, steps=steps, state=state, size_bytes=size, speeds=tuple(speeds),
        accuracy=accuracy,
    )  # fmt: skip


def test_the_quickest_that_passed_wins_and_what_was_refused_never_does():
    trials = [trial("float", 4, 0), trial("int8", 1, 0.2), trial("bad", 0.5, 9, state="inaccurate")]
    assert best(trials, "latency").name == "int8"
    assert best([trials[2]], "latency") is None


def test_what_is_wanted_decides():
    lone = trial("lone", 1, 0, size=900, batch8=8)
    many = trial("many", 2, 0, size=800, batch8=4)
    assert best([lone, many], "latency").name == "lone"
    assert best([lone, many], "throughput").name == "many"
    assert best([lone, many], "size").name == "many"


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(-1, 5)), min_size=1, max_size=30))
def test_nothing_on_the_front_is_beaten_and_all_else_is(points):
    trials = [trial(str(i), ms, drop) for i, (ms, drop) in enumerate(points)]
    on = front(trials, "latency")
    names = {each.name for each in on}

    def beats(a, b):
        cheaper, better = cost(a, "latency"), a.accuracy.drop
        other, worse = cost(b, "latency"), b.accuracy.drop
        return cheaper <= other and better <= worse and (cheaper < other or better < worse)

    for each in trials:
        if each.name in names:
            assert not any(beats(other, each) for other in trials)
        else:
            same = any(
                (cost(o, "latency"), o.accuracy.drop) == (cost(each, "latency"), each.accuracy.drop)
                for o in on
            )
            assert same or any(beats(other, each) for other in on)


def test_what_is_faster_only_within_noise_does_not_replace_the_float_model():
    step = ({"step": "quantize"},)
    float_model = trial("float", 4, 0)
    noisy = trial("noisy", 3.9, 0, steps=step, low=0.97)
    clear = trial("clear", 3.5, 0, steps=step, low=1.1)
    assert best([float_model, noisy], "latency").name == "float"
    assert best([float_model, noisy, clear], "latency").name == "clear"
    assert best([float_model, trial("small", 9, 0, steps=step, size=10)], "size").name == "small"


def test_of_those_that_are_as_fast_within_noise_the_more_accurate_is_taken_and_that_is_said():
    step = ({"step": "quantize"},)
    quick = trial("quick", 1.0, 0.4, steps=step)
    near = trial("near", 1.01, 0.1, steps=step)
    far = trial("far", 1.5, 0.0, steps=step)
    chosen = choose([trial("float", 4, 0), quick, near, far], "latency")
    assert chosen.trial.name == "near"
    assert {each.name for each in chosen.among} == {"quick", "near"}
    said = "near and quick are as fast within noise, and near loses 0.3 points less"
    assert chosen.reason("latency") == said


def test_of_those_that_are_as_fast_and_as_accurate_the_smaller_is_taken():
    step = ({"step": "quantize"},)
    large = trial("large", 1.0, 0.1, steps=step, size=900)
    small = trial("small", 1.01, 0.1, steps=step, size=500)
    chosen = choose([large, small], "latency")
    assert chosen.trial.name == "small"
    assert chosen.reason("latency").endswith("and small is smaller")
    assert choose([small], "latency").reason("latency") == ""


@given(
    st.lists(
        st.tuples(st.floats(0.5, 3), st.sampled_from([-0.1, 0, 0.2, 0.4]), st.integers(1, 5)),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(["latency", "throughput", "size"]),
)
def test_no_trial_that_passed_beats_the_chosen_one_in_time_loss_or_bytes_for_nothing(
    points, target
):
    step = ({"step": "quantize"},)
    trials = [
        trial(str(i), ms, drop, size=size * 100, steps=step)
        for i, (ms, drop, size) in enumerate(points)
    ]
    chosen = choose(trials, target).trial

    def facts(each):
        return (cost(each, target), each.accuracy.drop, each.size_bytes)

    for each in trials:
        better = facts(each) != facts(chosen) and all(
            a <= b for a, b in zip(facts(each), facts(chosen), strict=True)
        )
        assert not better


def test_threads_that_a_trial_was_tuned_with_are_what_counts():
    import msgspec

    step = ({"step": "quantize"},)
    plain, tuned = trial("plain", 2.0, 0.1, steps=step), trial("tuned", 3.0, 0.1, steps=step)
    tuned = msgspec.structs.replace(tuned, tuned=trial("", 1.0, 0.1).speeds, threads=1)
    assert best([plain, tuned], "latency").name == "tuned"
