"""Metrics before and after a run, as numbers of the run."""

from prometheus_client.parser import text_string_to_metric_families

from mlserve_cli.bench.live import server_side
from mlserve_cli.bench.live.place import Place, Reply
from mlserve_cli.bench.live.served import Served
from mlserve_cli.runtime.errors import InvalidRequest
from mlserve_cli.runtime.monitoring.metrics import Metrics

PLACE = Place(url="http://h", host="h", port=80)
SERVED = Served(protocol="oip-json", model="m", ours=True)


def scraped(metrics, monkeypatch):
    monkeypatch.setattr(server_side, "ask", lambda *_: Reply(200, {}, metrics.render()))
    return server_side.scrape(PLACE, SERVED)


def test_what_came_in_between_is_counted_and_nothing_else(monkeypatch):
    metrics = Metrics()
    model, other = metrics.model("m", "1"), metrics.model("other", "1")
    model.ran(1, 0.5)
    model.waited(9.0)
    before = scraped(metrics, monkeypatch)
    for rows in (4, 4, 7, 2000):
        model.ran(rows, 0.002)
        model.waited(0.004)
    model.answered("oip", 400, 0.01, InvalidRequest("no"))
    other.ran(3, 1.0)
    found = server_side.between(before, scraped(metrics, monkeypatch))
    assert found.mean_batch_rows == (4 + 4 + 7 + 2000) / 4
    assert found.batches == {"4": 2, "8": 1, "more": 1}
    assert round(found.stages_ms["queue"], 6) == 4.0
    assert round(found.stages_ms["compute"], 6) == 2.0
    assert found.rejections == {InvalidRequest.reason: 1}
    assert "503.8 rows a batch" in found.sentence


def test_a_server_that_ran_nothing_or_tells_nothing_has_no_side(monkeypatch):
    metrics = Metrics()
    metrics.model("m", "1")
    same = scraped(metrics, monkeypatch)
    assert server_side.between(same, same) is None
    assert server_side.between(None, same) is None
    monkeypatch.setattr(server_side, "ask", lambda *_: Reply(401, {}, b""))
    assert server_side.scrape(PLACE, SERVED) is None


def test_the_metrics_are_what_a_scraper_reads():
    names = {family.name for family in text_string_to_metric_families(Metrics().render().decode())}
    assert {"mlserve_batch_rows", "mlserve_stage_seconds", "mlserve_rejections"} <= names
