"""The search for the nodes that must stay in float, against models whose truth is known."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mlserve_cli.search.exclusion import search


@dataclass(frozen=True)
class Tried:
    passes: bool
    too_many: bool = False


def judge(harm, allowed, seen):
    """A set passes if what the others lose together is within the limit."""

    def attempt(excluded):
        seen.append(excluded)
        return Tried(sum(loss for name, loss in harm.items() if name not in excluded) <= allowed)

    return attempt


@given(
    losses=st.lists(st.floats(0.01, 1.0), min_size=2, max_size=100, unique=True),
    share=st.floats(0.05, 0.95),
)
def test_the_smallest_prefix_that_passes_is_found_in_few_evaluations(losses, share):
    harm = {f"n{i}": loss for i, loss in enumerate(sorted(losses, reverse=True))}
    allowed = share * sum(losses)
    ranked, seen = list(harm), []
    found = search(ranked, judge(harm, allowed, seen), limit=15)
    sizes = [size for size in range(1, len(ranked)) if sum(list(harm.values())[size:]) <= allowed]
    if not sizes:
        assert found.excluded is None
    else:
        assert found.excluded == tuple(ranked[: max(1, sizes[0])])
        assert found.outcome.passes
    assert found.tried == len(seen) <= 12


def test_a_hundred_nodes_take_at_most_fifteen_evaluations_with_giving_back():
    harm = {f"n{i}": 1 / (i + 1) for i in range(100)}
    seen = []
    found = search(list(harm), judge(harm, 1.5, seen), limit=15, worth=dict.fromkeys(harm, 10.0))
    assert found.excluded is not None
    assert found.tried == len(seen) <= 15


def test_what_wins_most_time_for_what_it_costs_is_given_back_first():
    harm = {"a": 0.5, "b": 0.3, "c": 0.05, "d": 0.01}
    # The ranking is wrong about c: it stands before what really hurts.
    seen = []
    found = search(
        ["c", "a", "b", "d"], judge(harm, 0.4, seen), limit=10, worth={"c": 50.0, "a": 1.0}
    )
    assert found.excluded == ("a",)
    assert found.outcome.passes


def test_where_all_but_one_are_not_enough_nothing_is_found():
    seen = []
    found = search(list("abcdefgh"), judge(dict.fromkeys("abcdefgh", 1.0), 0.5, seen), limit=15)
    assert found.excluded is None
    assert found.outcome is None


def test_no_more_is_evaluated_than_is_allowed():
    seen = []
    search(list("abcdefghijklmnop"), judge({"p": 9.0}, 1.0, seen), limit=2)
    assert len(seen) == 2


def test_where_too_little_is_left_in_int8_fewer_are_tried_and_never_more():
    harm = {f"n{i}": 1.0 for i in range(40)}
    seen = []

    def attempt(excluded):
        seen.append(len(excluded))
        return Tried(len(excluded) == 3, too_many=len(excluded) > 3)

    found = search(list(harm), attempt, limit=15)
    assert found.excluded == ("n0", "n1", "n2")
    assert seen[0] > 3  # an eighth of them
    assert max(seen[1:]) < seen[0]


def test_where_no_number_is_both_accurate_and_fast_the_search_ends():
    seen = []

    def attempt(excluded):
        seen.append(len(excluded))
        return Tried(False, too_many=len(excluded) >= 5)

    assert search([f"n{i}" for i in range(100)], attempt, limit=15).excluded is None
    assert len(seen) <= 7
