"""Logs: what is written can be read back by the tools meant to read it."""

from __future__ import annotations

import io
import json
import math
import struct
import subprocess
import sys

import pytest

from t5x_ext.training import events, logs


def _lines(model_dir):
    return [json.loads(line) for line in (model_dir / logs.METRICS_FILE).read_text().splitlines()]


def _records(path):
    """Splits an event file into protobuf payloads, checking both checksums."""
    data, payloads = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == events._masked_crc(data[:8])
        assert data[12 + length : 16 + length] == events._masked_crc(data[12 : 12 + length])
        payloads.append(data[12 : 12 + length])
        data = data[16 + length :]
    return payloads


def test_crc32c_known_answer():
    # CRC-32C("123456789") = 0xE3069283 is the check value of the catalogue of CRC algorithms.
    rotated = (0xE3069283 >> 15 | 0xE3069283 << 17) & 0xFFFFFFFF
    assert events._masked_crc(b"123456789") == struct.pack(
        "<I", (rotated + 0xA282EAD8) & 0xFFFFFFFF
    )


def test_metrics_jsonl_has_step_and_values_and_null_for_nan(tmp_path):
    log = logs.MetricLog(tmp_path)
    log.write(1, {"train/loss": 2.5})
    log.write(2, {"train/loss": math.nan, "train/grad_norm": 1e300})
    log.close()
    first, second = _lines(tmp_path)
    assert (first["step"], first["train/loss"]) == (1, 2.5)
    assert second["train/loss"] is None
    assert second["train/grad_norm"] == 1e300


def test_event_files_are_read_by_tensorflow(tmp_path):
    log = logs.MetricLog(tmp_path)
    log.write(1, {"train/loss": 2.5, "train/größe": -1.0})
    log.write(300, {"train/loss": math.inf})
    log.close()
    log = logs.MetricLog(tmp_path, start_step=299)
    log.close()

    from tensorflow.core.util import event_pb2

    first, resumed = (
        [event_pb2.Event.FromString(record) for record in _records(path)]
        for path in sorted(tmp_path.glob("events.out.tfevents.*"))
    )
    assert first[0].file_version == "brain.Event:2"
    values = {(e.step, v.tag): v.simple_value for e in first for v in e.summary.value}
    assert values == {
        (1, "train/loss"): 2.5,
        (1, "train/größe"): -1.0,
        (300, "train/loss"): math.inf,
    }
    assert first[1].wall_time > 1e9
    assert resumed[1].step == 300
    assert resumed[1].session_log.status == event_pb2.SessionLog.START


def test_texts_are_read_by_tensorflow(tmp_path):
    log = logs.MetricLog(tmp_path)
    log.write_texts(7, {"config": "    TRAIN_STEPS = 7", "größe": ""})
    log.close()

    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    (path,) = tmp_path.glob("events.out.tfevents.*")
    event = event_pb2.Event.FromString(_records(path)[1])
    assert event.step == 7
    assert [value.metadata.plugin_data.plugin_name for value in event.summary.value] == ["text"] * 2
    texts = {v.tag: tf.make_ndarray(v.tensor).item().decode() for v in event.summary.value}
    assert texts == {"config": "    TRAIN_STEPS = 7", "größe": ""}


def test_resumed_log_is_that_of_an_unbroken_run(tmp_path):
    log = logs.MetricLog(tmp_path)
    for step in range(1, 8):
        log.write(step, {"loss": 0.0})
    log.close()
    with (tmp_path / logs.METRICS_FILE).open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    log = logs.MetricLog(tmp_path, start_step=5)
    for step in range(6, 10):
        log.write(step, {"loss": 1.0})
    log.close()
    assert [line["step"] for line in _lines(tmp_path)] == list(range(1, 10))
    assert [line["loss"] for line in _lines(tmp_path)] == [0.0] * 5 + [1.0] * 4


def set_clock(monkeypatch, start: float) -> list[float]:
    now = [start]
    monkeypatch.setattr(logs.time, "monotonic", lambda: now[0])
    return now


def test_a_minute_of_slow_steps_ends_with_a_line(monkeypatch):
    now = set_clock(monkeypatch, 0.0)
    out = io.StringIO()
    progress = logs.ProgressLine(total_steps=80, stream=out)
    for step in range(1, 6):
        now[0] += 25.0
        progress.count(step, tokens=9, slots=10)
    assert out.getvalue().splitlines() == ["step 3/80  ETA 32m05s"]
    assert progress.report(loss=1.0)["secs_per_step"] == 25.0


def test_progress_line_states_rates_since_the_last_line(monkeypatch):
    now = set_clock(monkeypatch, 10.0)
    out = io.StringIO()
    progress = logs.ProgressLine(total_steps=100, start_step=20, stream=out)
    for step in range(21, 26):
        progress.count(step, tokens=900, slots=1000)
    now[0] = 14.0
    rates = progress.report(loss=1.25)
    # Four steps after the first took 4 s.
    assert rates["tokens_per_sec"] == pytest.approx(900)
    assert rates["padding_share"] == pytest.approx(0.1)
    for step in range(26, 31):
        progress.count(step, tokens=1200, slots=2000)
    now[0] = 20.0
    rates = progress.report(loss=1.0)
    assert rates["tokens_per_sec"] == pytest.approx(1000)
    assert rates["secs_per_step"] == pytest.approx(1.2)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith(
        "step 25/100  loss 1.2500  900 tokens/s  padding 10.0%  ETA 1m15s  host memory "
    )
    assert lines[1].startswith(
        "step 30/100  loss 1.0000  1.0k tokens/s  padding 40.0%  ETA 1m24s  host memory "
    )


def test_progress_line_of_a_one_step_run_has_no_rate():
    out = io.StringIO()
    progress = logs.ProgressLine(total_steps=1, stream=out)
    progress.count(1, tokens=10, slots=10)
    assert "tokens_per_sec" not in progress.report(loss=3.0)
    assert out.getvalue().startswith("step 1/1  loss 3.0000  padding 0.0%  host memory ")


def test_a_loss_that_a_large_normalizing_factor_divided_keeps_its_digits():
    out = io.StringIO()
    progress = logs.ProgressLine(total_steps=3, stream=out)
    for step, loss in enumerate((0.010204, 0.00102041, 0.0), start=1):
        progress.count(step, tokens=1, slots=1)
        progress.report(loss)
    found = [line.split("  ")[1] for line in out.getvalue().splitlines()]
    assert found == ["loss 0.0102", "loss 0.00102", "loss 0.0000"]


def test_import_needs_neither_tensorflow_nor_jax():
    code = (
        "import sys, t5x_ext.training.logs;"
        "print([m for m in ('tensorflow', 'jax', 'tensorboard') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
