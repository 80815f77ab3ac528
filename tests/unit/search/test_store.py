import sqlite3

import pytest

from mlserve_cli.search.store import Store, StoreError
from mlserve_cli.search.trial import Accuracy, Speed, Trial


def trial(key="a", **changes):
    facts = {"key": key, "name": key, "steps": ({"step": "quantize"},), "state": "passed"}
    return Trial(**(facts | changes))


def test_a_trial_comes_back_as_it_was_after_the_file_was_closed(tmp_path):
    full = trial(
        speeds=(Speed(batch=1, p50_ms=1.5, p50_low_ms=1.0, p50_high_ms=2.0, rows_per_s=600.0),),
        accuracy=Accuracy(metric="accuracy", unit="points", value=97.5, low=96, high=98, n=1000),
    )
    store = Store(tmp_path / "deep" / "trials.sqlite", "q")
    store.put(full)
    store.close()
    store = Store(tmp_path / "deep" / "trials.sqlite", "q")
    assert store.find("a") == full
    assert store.trials() == [full]
    store.close()


def test_another_question_finds_nothing_and_forgetting_one_keeps_the_other(tmp_path):
    first, second = (Store(tmp_path / "t.sqlite", question) for question in ("one", "two"))
    first.put(trial("a"))
    second.put(trial("b"))
    assert second.find("a") is None
    first.forget()
    assert first.trials() == []
    assert [each.key for each in second.trials()] == ["b"]
    first.close()
    second.close()


def test_the_last_word_on_a_candidate_counts_and_keeps_its_place(tmp_path):
    store = Store(tmp_path / "t.sqlite", "q")
    store.put(trial("a", state="failed"))
    store.put(trial("b"))
    store.put(trial("a", state="slower"))
    assert [(each.key, each.state) for each in store.trials()] == [("a", "slower"), ("b", "passed")]
    store.close()


def test_a_file_that_is_no_database_is_refused_with_a_sentence(tmp_path):
    (tmp_path / "t.sqlite").write_text("this is a diary, not a database" * 40)
    with pytest.raises(StoreError, match="cannot be used for the trials"):
        Store(tmp_path / "t.sqlite", "q")


def test_a_file_of_a_newer_schema_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "t.sqlite") as db:
        db.execute("pragma user_version = 7")
    db.close()
    with pytest.raises(StoreError, match="its schema is 7"):
        Store(tmp_path / "t.sqlite", "q")


def test_a_trial_that_was_spoiled_is_no_bug_and_names_the_file(tmp_path):
    store = Store(tmp_path / "trials.sqlite", "q")
    store.put(trial("a"))
    with sqlite3.connect(tmp_path / "trials.sqlite") as other:
        other.execute("update trials set document = '{}'")
    other.close()

    for read in (store.trials, lambda: store.find("a")):
        with pytest.raises(StoreError, match=r"trials\.sqlite' holds a trial that cannot be read"):
            read()
    store.close()
