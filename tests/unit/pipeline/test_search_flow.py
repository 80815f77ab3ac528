"""The order of a search, with a bench that has a script and a memory."""

from dataclasses import dataclass, field, replace

import msgspec
import pytest

from mlserve_cli.errors import StepError
from mlserve_cli.package.definition import Metric
from mlserve_cli.package.progress import Silent
from mlserve_cli.pipeline import mending
from mlserve_cli.pipeline.optimize import prepared
from mlserve_cli.pipeline.searching import Goal, Search
from mlserve_cli.pipeline.trying import Built
from mlserve_cli.pipeline.variant import Gate
from mlserve_cli.runtime.hardware import Hardware
from mlserve_cli.search.candidate import Candidate, StepChoice
from mlserve_cli.search.proposals import Facts
from mlserve_cli.search.trial import Accuracy, Speed, Trial


def candidate(name, method="static"):
    step = StepChoice(step="quantize", parameters={"method": method, "tag": name})
    return Candidate(name=name, steps=(step,))


def speed(times):
    return Speed(
        batch=1, p50_ms=8 / times, p50_low_ms=1, p50_high_ms=2, rows_per_s=125 * times,
        speed_up=times, speed_up_low=times * 0.95, speed_up_high=times * 1.05,
    )  # fmt: skip


@dataclass
class Before:
    value: float = 90.0
    low: float = 88.0
    high: float = 92.0
    n: int = 100
    metric: Metric = field(default_factory=lambda: Metric(name="accuracy", unit="points"))
    constant: str = ""

    def doubt(self, subject):
        return self.constant and f"{subject} is no better than always answering {self.constant}"


@dataclass
class FakeBench:
    """truth: name → (times as fast, points lost). A name in `broken` cannot be made."""

    truth: dict[str, tuple[float, float]]
    gate: Gate = field(default_factory=lambda: Gate(max_drop=1.0))
    broken: frozenset[str] = frozenset()
    stored: dict[str, Trial] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    evaluations: int = 0
    parent: object = None

    def known(self, each):
        return self.stored.get(each.key)

    def named(self, each):
        return replace(each, name=f"{each.name}-{len(self.stored)}")

    def trials(self):
        return list(self.stored.values())

    def keep(self, trial):
        self.stored[trial.key] = trial
        return trial

    def baseline(self, *, seconds):
        return Trial(key="[]", name="float", steps=(), state="passed", speeds=(speed(1.0),))

    def package(self, trial):
        return object()

    def build(self, each):
        self.asked.append(f"build {each.name}")
        steps = tuple(step.document() for step in each.steps)
        if each.name in self.broken:
            return self.keep(
                Trial(key=each.key, name=each.name, steps=steps, state="failed", reason="no")
            )
        trial = Trial(key=each.key, name=each.name, steps=steps, state="made", digest=each.name)
        return Built(candidate=each, package=None, trial=trial)

    def time(self, built, *, seconds):
        self.asked.append("time " + " ".join(each.candidate.name for each in built))
        for each in built:
            times, _ = self._truth(each.candidate)
            state = "slower" if times < 1 else "made"
            each.trial = self.keep(
                msgspec.structs.replace(each.trial, speeds=(speed(times),), state=state)
            )

    def before(self):
        return Before()

    def judge(self, built):
        self.asked.append(f"judge {built.candidate.name}")
        self.evaluations += 1
        _, lost = self._truth(built.candidate)
        accuracy = Accuracy(
            metric="accuracy", unit="points", value=90 - lost, low=0, high=100, n=100, drop=lost
        )
        state = "passed" if lost <= self.gate.max_drop else "inaccurate"
        built.trial = msgspec.structs.replace(built.trial, state=state, accuracy=accuracy)
        return self.keep(built.trial)

    def _truth(self, each):
        return self.truth[each.name]


ONE_CORE = Hardware(
    cpu_name="A CPU", logical_cpus=1, physical_cores=1, cpu_quota=None, memory_bytes=1,
    numa_nodes=1, isa=(),
)  # fmt: skip
FACTS = Facts(
    operators=frozenset({"Conv"}), quantized=False, has_rows=True, engines=(), isa=frozenset()
)


@dataclass
class Ran:
    """What became of a search: the best so far, each time that it was told; why it ended."""

    places: list[str]
    stopped: str


def run(bench, candidates, generators=(), **goal):
    places = []
    search = Search(
        bench,
        Goal(gate=bench.gate, **goal),
        Silent(),
        began=0.0,
        offer=lambda best: places.append(best.name),
    )
    search.run(FACTS, ONE_CORE, generators=(lambda facts, trials: candidates, *generators))
    return Ran(places, search.stopped)


def test_all_are_timed_in_one_run_and_only_those_that_are_faster_are_judged_best_first():
    bench = FakeBench({"a": (2.0, 0.1), "b": (3.0, 0.2), "slow": (0.5, 0.0)})
    run(bench, [candidate("a"), candidate("b"), candidate("slow")])
    assert bench.asked == [
        "build a", "build b", "build slow", "time a b slow", "judge b", "judge a"
    ]  # fmt: skip


def test_the_best_so_far_is_put_in_its_place_as_soon_as_it_is_known():
    bench = FakeBench({"a": (2.0, 0.1), "b": (3.0, 0.2)})
    search = run(bench, [candidate("a"), candidate("b")])
    assert search.places[0] == "b"
    assert set(search.places) == {"b"}


def test_what_cannot_be_made_costs_neither_timing_nor_judging():
    bench = FakeBench({"a": (2.0, 0.1)}, broken=frozenset({"bad"}))
    run(bench, [candidate("bad"), candidate("a")])
    assert bench.asked == ["build bad", "build a", "time a", "judge a"]


def test_a_trial_that_is_known_is_not_made_again():
    bench = FakeBench({"a": (2.0, 0.1), "b": (3.0, 0.2)})
    run(bench, [candidate("a"), candidate("b")])
    again = replace(bench, asked=[])
    run(again, [candidate("a"), candidate("b")])
    assert again.asked == []


def test_generators_are_asked_again_with_what_was_found_until_they_have_nothing_new():
    bench = FakeBench({"a": (2.0, 0.1), "a then b": (4.0, 0.1), "c": (0.5, 0.0)})

    def after(facts, trials):
        for trial in trials:
            if trial.name == "a" and trial.state == "passed":
                step = StepChoice(step="engine", parameters={"engine": "openvino"})
                yield trial.candidate.then("a then b", step, why="the winner in another engine")

    search = run(bench, [candidate("a"), candidate("c")], generators=(after,))
    assert bench.asked == [
        "build a", "build c", "time a c", "judge a",
        "build a then b", "time a then b", "judge a then b",
    ]  # fmt: skip
    assert search.places[-1] == "a then b"


def test_evaluations_are_not_exceeded():
    truth = {f"c{i}": (2.0 + i, 0.1) for i in range(9)}
    bench = FakeBench(truth)
    search = run(bench, [candidate(name) for name in truth], evaluations=4)
    assert bench.evaluations == 4
    assert search.stopped == "4 evaluations of accuracy were made"


def test_a_fast_candidate_that_loses_too_much_is_mended_and_its_set_in_float_is_small(monkeypatch):
    harm = {"n0": 3.0, "n1": 1.5, "n2": 0.4, "n3": 0.2, "n4": 0.1, "n5": 0.1, "n6": 0.1, "n7": 0.1}

    class Lossy(FakeBench):
        def _truth(self, each):
            left = each.steps[-1].parameters.get("exclude", ())
            return 4.0 - 0.3 * len(left), sum(v for k, v in harm.items() if k not in left)

    monkeypatch.setattr(mending, "_ranked", lambda bench, trial, progress: list(harm))
    monkeypatch.setattr(mending, "_worth", lambda bench, trial: {})
    bench = Lossy({})
    search = run(bench, [candidate("int8")])
    judged = [line for line in bench.asked if line.startswith("judge")]
    assert len(judged) <= 6
    assert search.places[-1].startswith("int8-mixed")


def test_a_candidate_slower_than_the_best_that_passed_is_not_worth_mending(monkeypatch):
    monkeypatch.setattr(mending, "_ranked", lambda *args: pytest.fail("was ranked"))
    bench = FakeBench({"good": (3.0, 0.1), "bad": (2.0, 9.0)})
    run(bench, [candidate("good"), candidate("bad")])


def test_one_search_at_a_time_works_for_an_output(tmp_path):
    with prepared(tmp_path / "best") as work:
        left = work / ".int8.01234567.part"
        left.mkdir()
        with (
            pytest.raises(StepError, match=r"another search is at work in '.*best\.search'"),
            prepared(tmp_path / "best"),
        ):
            pass
        assert left.is_dir()

    with prepared(tmp_path / "best"):
        assert not left.exists()


def test_a_float_model_that_knows_nothing_is_told_of_before_the_first_candidate(monkeypatch):
    bench = FakeBench({"a": (2.0, 0.1)})
    monkeypatch.setattr(bench, "before", lambda: Before(constant="class 3"))
    said = []
    monkeypatch.setattr(Silent, "say", lambda self, text: said.append((text, tuple(bench.asked))))

    run(bench, [candidate("a")])

    note = "note: the float model is no better than always answering class 3"
    assert said[0] == (note, ())
