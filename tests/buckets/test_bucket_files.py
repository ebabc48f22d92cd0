"""Objects are read and written as files are; what the server does wrong is retried or one line."""

from __future__ import annotations

import itertools
import logging

import gin
import pytest
from etils import epath
from proxy import CUT, Proxy

from mixtures import files as base
from t5x_ext import files
from t5x_ext.checkpoints.directories import saved_steps
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Answer, Prediction, PredictionLog, read_predictions
from t5x_ext.terminal import exit_status
from t5x_ext.training.logs import MetricLog

ROW = Prediction("t", "c", "1", "in", ("out",), "")


def test_a_bucket_is_read_and_written_like_a_directory(bucket: str) -> None:
    root = files.path(bucket) / "run"
    assert not files.is_dir(root) and files.names_in(root) == []
    files.write_text(root / "a" / "x.json", "{}\n")
    files.write_text(root / "b.txt", "é")
    files.write_text(root / "b.txt", "newer")
    assert files.names_in(root) == ["a", "b.txt"]
    assert files.is_dir(root / "a") and not files.is_file(root / "a")
    assert files.read_text(root / "b.txt") == "newer"
    files.remove(root / "b.txt")
    files.remove(root / "b.txt")
    assert not files.is_file(root / "b.txt")
    with pytest.raises(ConfigError, match="b.txt: cannot be read .no such object or bucket"):
        files.read_text(root / "b.txt")
    with pytest.raises(ConfigError, match="no-such/x: cannot be written .no such object or bucket"):
        files.write_text("gs://no-such/x", "")


def test_epath_follows_although_it_was_asked_before(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow Datasets asks for its own bucket, after which epath stays with TensorFlow."""
    monkeypatch.delenv("EPATH_USE_TF", raising=False)
    epath.gpath._is_tf_installed.cache_clear()
    assert epath.gpath._is_tf_installed()
    base._prepare_buckets.cache_clear()
    files.write_text(files.path(bucket) / "x", "1")
    assert (epath.Path(bucket) / "x").exists()


def test_another_machines_writes_are_seen_at_once(bucket: str, proxy: Proxy) -> None:
    """A listing that is kept would hide the cells of other shards."""
    import urllib.request

    root = files.path(bucket)
    files.write_text(root / "one", "1")
    assert files.names_in(root) == ["one"]
    name = bucket.removeprefix("gs://")
    upload = f"{proxy.url}/upload/storage/v1/b/{name}/o?uploadType=media&name=two"
    urllib.request.urlopen(urllib.request.Request(upload, b"2", method="POST")).close()
    assert files.names_in(root) == ["one", "two"]


def test_a_growing_file_is_uploaded_by_the_clock_at_flush_and_at_close(bucket: str) -> None:
    path = files.path(bucket) / "log"
    log = files.GrowingFile(path, period_secs=1e9)
    assert files.read_bytes(path) == b""  # what may not be written is noticed at the start
    log.append(b"a\n")
    assert files.read_bytes(path) == b""
    log.flush()
    assert files.read_bytes(path) == b"a\n"
    log.append(b"b\n")
    log.close()
    with files.GrowingFile(path, lambda old: old[:2], period_secs=0) as again:
        assert files.read_bytes(path) == b"a\n"
        again.append(b"c\n")
        assert files.read_bytes(path) == b"a\nc\n"


def test_metrics_go_on_where_a_killed_run_had_a_checkpoint(bucket: str) -> None:
    log = MetricLog(f"{bucket}/run")
    log.write(1, {"train/loss": 2.0})
    log.flush()  # as before a checkpoint
    log.write(2, {"train/loss": 1.0})
    del log  # killed: nobody closes it
    again = MetricLog(f"{bucket}/run", start_step=1)
    again.write(2, {"train/loss": 1.5})
    again.close()
    lines = files.read_text(f"{bucket}/run/metrics.jsonl").splitlines()
    assert ['"step": 1' in line or "1.5" in line for line in lines] == [True, True]
    events = [n for n in files.names_in(f"{bucket}/run") if n.startswith("events.out.tfevents")]
    assert len(events) == 2


def test_predictions_are_resumed(bucket: str) -> None:
    path = f"{bucket}/out/predictions.jsonl"
    rows = [ROW, ROW]
    with PredictionLog(path, rows, "signature") as log:
        log.append([(1, Answer("b"))])
    with PredictionLog(path, rows, "signature") as log:
        assert log.done == {1: Answer("b")}
        log.append([(0, Answer("a"))])
        log.finish()
    assert [row.prediction for row in read_predictions(path)] == ["a", "b"]
    assert files.names_in(f"{bucket}/out") == ["predictions.jsonl"]


@pytest.mark.parametrize("fault", [503, 429, CUT])
def test_a_passing_fault_is_tried_again(fault: int, bucket: str, proxy: Proxy) -> None:
    path = files.path(bucket) / "x"
    for call in (lambda: files.write_text(path, "1"), lambda: files.read_text(path)):
        count = itertools.count()
        proxy.fault = lambda method, route, count=count: fault if next(count) == 0 else None
        call()
        assert next(count) > 1
    assert files.read_text(path) == "1"


def test_a_slow_server_is_waited_for(bucket: str, proxy: Proxy) -> None:
    proxy.delay_secs = 1.0
    files.write_text(f"{bucket}/x", "1")
    assert files.read_text(f"{bucket}/x") == "1"


def test_a_refusal_is_one_line_with_whose_account_it_is(
    bucket: str, proxy: Proxy, capfd: pytest.CaptureFixture
) -> None:
    files.write_text(f"{bucket}/x", "1")
    proxy.fault = lambda method, route: 403
    for call in (
        lambda: files.read_text(f"{bucket}/x"),
        lambda: files.write_text(f"{bucket}/x", "2"),
    ):
        with pytest.raises(ConfigError, match=rf"^{bucket}/x: cannot be") as refused:
            call()
        assert "Forbidden" in str(refused.value) and "gcloud auth" in str(refused.value)
        assert "\n" not in str(refused.value)
    with pytest.raises(files.Unreachable):  # not the same as a file that is not there
        files.read_text(f"{bucket}/x")
    for ask in (files.is_file, files.is_dir, files.names_in, saved_steps):
        with pytest.raises(base.BucketError, match="Forbidden"):
            ask(files.path(bucket) / "x")
    assert capfd.readouterr().err == ""


def test_a_log_outlives_an_outage(
    bucket: str, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    path = files.path(bucket) / "log"
    log = files.GrowingFile(path, period_secs=0)
    proxy.fault = lambda method, route: 403
    with caplog.at_level(logging.WARNING):
        log.append(b"a\n")
    assert "log: not written (Forbidden" in caplog.text and "trying again later" in caplog.text
    proxy.fault = lambda method, route: None
    log.append(b"b\n")
    assert files.read_bytes(path) == b"a\nb\n"
    proxy.fault = lambda method, route: 403
    log.append(b"c\n")
    with pytest.raises(base.BucketError, match="Forbidden"):
        log.close()


def test_a_command_says_which_object_was_refused_through_gin_too(
    bucket: str, proxy: Proxy, capsys: pytest.CaptureFixture
) -> None:
    """Gin replaces with its own exception one that passes through it."""

    @gin.configurable
    def look_into_the_bucket() -> None:
        files.is_dir(f"{bucket}/data")

    proxy.fault = lambda method, route: 403
    assert exit_status(look_into_the_bucket) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {bucket}/data: Forbidden: ") and "gcloud auth" in line
