"""`grkd watch`: the page follows the run's files; nobody else is answered; nothing is written."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from grkd import cli
from grkd.reports.live import live_run, under_way
from grkd.watching.server import WatchServer

RECIPE = "task: classifier\noutput: run\nmethods: [kd, grkd]\nseeds: [0]\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def server(run: Path) -> Iterator[WatchServer]:
    made = WatchServer(run, host="127.0.0.1", port=0, every_seconds=3)
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(timeout=10)
    assert not thread.is_alive()


def asked(server: WatchServer, path: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    request = urllib.request.Request(server.url + path, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, "", dict(error.headers)


def log(folder: Path, step: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": step, "progress": step / 10, "loss_nats": 1.0 / step, "seconds": 1.0}) + "\n")


def evaluated(run: Path, name: str, accuracy: float) -> None:
    (run / "evaluate" / name).mkdir(parents=True)
    value = {"accuracy": {"value": accuracy, "low": None, "high": None}}
    (run / "evaluate" / name / "metrics.json").write_text(json.dumps(value))


@pytest.mark.figures
def test_the_page_follows_the_run(run: Path, server: WatchServer) -> None:
    status, page, headers = asked(server)
    assert (status, headers["Refresh"], headers["Cache-Control"]) == (200, "3", "no-store")
    assert "waiting for the run" in page
    (run / "recipe.yaml").write_text(RECIPE)
    evaluated(run, "before", 0.25)
    log(run / "train" / "kd-seed0.partial", 1)
    log(run / "train" / "kd-seed0.partial", 7)
    _, page, _ = asked(server)
    assert "running: train/kd-seed0, step 7" in page
    assert "Training" in page  # the curve of the training under way
    (run / "train" / "kd-seed0.partial").rename(run / "train" / "kd-seed0")
    (run / "train" / "kd-seed0" / "training.json").write_text(json.dumps({"steps": 10, "seconds": 42.0}))
    evaluated(run, "kd-seed0", 0.875)
    log(run / "train" / "grkd-seed0.partial", 2)
    _, page, _ = asked(server)
    assert "running: train/grkd-seed0, step 2" in page
    assert "87.5" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    before = sorted(run.rglob("*"))
    asked(server)
    assert sorted(run.rglob("*")) == before


def test_metrics_of_an_earlier_recipe_are_not_shown(run: Path) -> None:
    def stage(name: str, key: str, **inputs: str) -> None:
        (run / name).mkdir(parents=True, exist_ok=True)
        (run / name / "manifest.json").write_text(json.dumps({"key": key, "inputs": inputs}))

    def shown() -> dict[str, float | None]:
        return {row.method: row.value for row in live_run(run).rows}

    (run / "recipe.yaml").write_text(RECIPE)
    rows = [{"method": "kd", "metric": "accuracy", "seed": 0, "value": 0.125}]
    (run / "results.json").write_text(json.dumps({"task": "classifier", "rows": rows}))
    stage("score", "s1")
    for name in ("kd-seed0", "grkd-seed0"):
        stage(f"train/{name}", "t1", score="s1")
        evaluated(run, name, 0.5)
        stage(f"evaluate/{name}", "e1", model="t1", score="s1")
    evaluated(run, "before", 0.25)
    stage("evaluate/before", "b1", score="s1")
    (run / "train" / "grkd-seed0.partial").mkdir()
    assert shown() == {"before": 0.25, "kd": 0.5}  # grkd is being trained again
    stage("train/kd-seed0", "t2", score="s1")
    assert shown() == {"before": 0.25}  # kd has been
    stage("score", "s2")
    assert shown() == {}  # all of it by another teacher, and results.json too


def test_a_finished_run_says_nothing_of_running(run: Path, server: WatchServer) -> None:
    (run / "recipe.yaml").write_text(RECIPE)
    (run / "results.json").write_text(json.dumps({"task": "classifier", "title": "Mine", "rows": []}))
    _, page, _ = asked(server)
    assert "Mine" in page
    assert "running" not in page
    assert under_way(run) == []


def test_nobody_else_is_answered(server: WatchServer) -> None:
    assert asked(server, "recipe.yaml")[0] == 404
    assert asked(server, "../recipe.yaml")[0] == 404
    assert asked(server, Host="evil.example")[0] == 403
    assert asked(server, Host="localhost:1234")[0] == 200
    assert server.server_address[0] == "127.0.0.1"


def test_mistakes_are_one_line(run: Path, server: WatchServer, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(server.server_address[1])
    for words, part in (
        (["absent"], "no such folder"),
        ([str(run), "--port", port], "give another --port"),
        ([str(run), "--host", ""], "--host is empty"),
        ([str(run), "--every", "0"], "--every must be 1 or more"),
    ):
        assert cli.main(["watch", *words]) == 2
        assert part in capsys.readouterr().err


def test_ctrl_c_ends_it(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(WatchServer, "serve_forever", interrupted)
    assert cli.main(["watch", str(run), "--port", "0"]) == 0
    assert capsys.readouterr().out.endswith("(Ctrl-C ends)\nended\n")
