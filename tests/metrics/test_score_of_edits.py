"""`score` on predictions with sources and gold edits: metrics by name, comparison, bad files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax  # noqa: F401
import pytest

from mixtures import task_metrics
from mixtures.writing.tokens import detokenize
from t5x_ext import score
from t5x_ext.metrics import NAMES, Prediction, get_metric, measure
from t5x_ext.metrics.errant_library import is_installed

SOURCES = ["He go to school .", "I ca n't swim , but I like it .", "All is well ."]
REFERENCES = [["He goes to school ."], ["I can not swim , but I like it ."] * 2, ["All is well ."]]
M2 = """\
S He go to school .
A 1 2|||R:VERB:SVA|||goes|||REQUIRED|||-NONE-|||0

S I ca n't swim , but I like it .
A 2 3|||R:CONTR|||not|||REQUIRED|||-NONE-|||0

S All is well .
A -1 -1|||noop|||-NONE-|||REQUIRED|||-NONE-|||0
"""


def write(path: Path, predictions: list[str], **changed: Any) -> str:
    rows = zip(SOURCES, REFERENCES, predictions, strict=True)
    lines = [
        {"task": "t", "category": "c", "id": str(i), "references": references}
        | {"prediction": prediction, "source": source}
        | changed
        for i, (source, references, prediction) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return str(path)


@pytest.fixture
def corrected(tmp_path: Path) -> str:
    return write(tmp_path / "p.jsonl", ["He goes to school.", "I can't swim, but like it.", ""])


@pytest.fixture
def gold(tmp_path: Path) -> str:
    path = tmp_path / "gold.m2"
    path.write_text(M2, encoding="utf-8")
    return str(path)


def summary(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert score.main([*args, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_natural_answer_is_tokenised_as_its_source(corrected, gold, capsys):
    found = summary(capsys, corrected, "--m2", gold, "--metrics", "m2,errant")
    m2, errant = found["overall"]["instances"]["means"].values()
    # Right: goes. Wrong: I dropped, the last sentence deleted. Missed: not. P 1/3, R 1/2.
    expected = 100 * 1.25 * (1 / 3) * (1 / 2) / (0.25 / 3 + 1 / 2)
    assert m2["mean"] == pytest.approx(expected)
    assert errant["mean"] == pytest.approx(expected)
    assert "own extractor" in next(key for key in found["metrics"] if key.startswith("errant"))


def test_copying_in_natural_text_proposes_nothing(tmp_path, gold, capsys):
    path = write(tmp_path / "copy.jsonl", [detokenize(source) for source in SOURCES])
    scored = tmp_path / "scored.jsonl"
    found = summary(
        capsys, path, "--m2", gold, "--metrics", "m2,errant,unchanged", "--out", str(scored)
    )
    means = [each["mean"] for each in found["overall"]["instances"]["means"].values()]
    assert means == [0.0, 0.0, 100.0]
    last = json.loads(scored.read_text().splitlines()[-1])
    assert last["edits"] == {"0": []} and set(last["score"].values()) == {1.0}


def test_every_metric_scores_a_file_with_sources_and_edits(corrected, gold, capsys):
    names = [name for name in NAMES if is_installed() or "spacy" not in name]
    names.remove("stopped")  # of what a model wrote: no row here says what ended it
    keys = [get_metric(name).key for name in names]
    assert len(set(keys)) == len(keys)  # no two metrics share a column
    found = summary(capsys, corrected, "--m2", gold, "--metrics", ",".join(names))
    means = found["overall"]["instances"]["means"]
    assert list(means) == keys
    for key, each in means.items():
        assert 0 <= each["low"] <= each["mean"] + 1e-9 and each["mean"] <= each["high"] + 1e-9, key
        assert each["high"] <= 100 + 1e-6, key


def test_processes_share_many_rows_and_count_the_same(tmp_path, capsys):
    path = write(tmp_path / "few.jsonl", ["He goes to school.", "I can't swim, but like it.", ""])
    lines = Path(path).read_text().splitlines(keepends=True)
    many = tmp_path / "many.jsonl"
    many.write_text("".join(lines * 400), encoding="utf-8")
    flags = [str(many), "--metrics", "gleu,errant,sari,rougeL,bleu,errant_ds,gleu_closed", "--json"]
    assert "jax" in sys.modules  # so that this process counts alone, and the other with forks
    assert score.main(flags) == 0
    alone = json.loads(capsys.readouterr().out)
    command = [sys.executable, "-m", "t5x_ext.score", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == alone


def test_sentence_gleu_is_the_mean_over_references_and_rows(tmp_path, capsys):
    """Counted by hand: 'b' for 'a' in two words has no bigram, one unigram of two in common."""
    lines = [
        {"task": "t", "category": "", "id": "0", "source": "a x", "prediction": "b x"}
        | {"references": ["b x", "c x"]},
        {"task": "t", "category": "", "id": "1", "source": "a", "prediction": ""}
        | {"references": ["b"]},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = summary(capsys, str(path), "--metrics", "gleu_sentence")["overall"]["instances"]
    same, other = 1.0, math.exp(math.log(1 / 2) / 4)  # 2/2, 1/1, 1, 1; 1/2, 1/1, 1, 1
    expected = 100 * ((same + other) / 2 + 1.0) / 2  # an empty output: all counts are taken as 1
    assert found["means"]["gleu_sentence[gec,smoothed]"]["mean"] == pytest.approx(expected)


def test_perfect_and_empty_answers_have_the_right_scores(tmp_path, capsys):
    perfect = write(tmp_path / "a.jsonl", [texts[0] for texts in REFERENCES])
    empty = write(tmp_path / "b.jsonl", ["", "", ""])
    names = "gleu,bleu,errant,exact"
    means = summary(capsys, perfect, "--metrics", names)["overall"]["instances"]["means"]
    assert [each["mean"] for each in means.values()] == pytest.approx([100.0] * 4)
    means = summary(capsys, empty, "--metrics", names)["overall"]["instances"]["means"]
    assert [each["mean"] for each in means.values()] == [0.0] * 4
    compared = summary(capsys, perfect, "--metrics", names, "--compare", empty)["difference"]
    assert [each["mean"] for each in compared["instances"]["means"].values()] == pytest.approx(
        [100.0] * 4
    )


@pytest.mark.parametrize(
    ("metrics", "warned"),
    [
        ("sari", ["SARI"]),
        ("bleu_intl", ["BLEU"]),
        ("bleu,sari_hf,gleu", ["SARI", "BLEU"]),
        ("gleu", []),
    ],
)
def test_the_table_names_each_variant_and_warns_of_mixed_tokens(corrected, capsys, metrics, warned):
    assert score.main([corrected, "--metrics", metrics]) == 0
    captured = capsys.readouterr()
    if metrics == "sari":
        assert "sari[easse,13a,lower]: SARI of easse and EditEval" in captured.out
    seen = "task 't': sources and references look like tokens, predictions like text"
    lines = [line for line in captured.err.splitlines() if seen in line]
    assert [line.partition(f"{seen}; ")[2].split()[0] for line in lines] == warned


def test_only_tasks_that_are_scored_so_are_warned_of(tmp_path, capsys):
    answers = ["He goes to school.", "I can't swim, but like it.", "All is well."]
    both = [write(tmp_path / task, answers, task=task) for task in ("jfleg", "asset")]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(Path(each).read_text() for each in both))
    assert score.main([str(path)]) == 0
    errors = capsys.readouterr().err
    assert "task 'asset': sources" in errors and "task 'jfleg'" not in errors


def test_a_task_names_its_metrics_and_the_flag_overrides(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(task_metrics, "_NAMED", {})
    path = write(tmp_path / "p.jsonl", SOURCES, task="jfleg")
    assert list(summary(capsys, path)["metrics"]) == ["gleu[gec,python3]", "gleu[gec,closed form]"]
    assert list(summary(capsys, path, "--metrics", "exact")["metrics"]) == ["exact"]
    task_metrics.name_metrics("my_*", ("f1",))
    assert task_metrics.metrics_of("my_task") == ("f1",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (M2.split("S All")[0], "2 sentences for 3 predictions (prediction 3"),
        (M2.replace("He go", "He goes"), "sources differ (first in prediction 1, id '0': 'He go"),
        (M2.replace("A 1 2", "A 1 9"), "line 2: field 'start end': '1 9'"),
        (M2.replace("goes|||REQ", "goes|||went|||REQ"), "line 2: 7 fields; allowed: 6"),
        (M2.split("S All")[0], "(prediction 3, id '2': 'All is well .' has no sentence)"),
        (M2 + "\nS Or not .\n", "(line 10: 'Or not .' has no prediction)"),
        (M2.replace("S I", "S We"), "2, id '1': \"I ca n't swim , but I like it .\"; line 4: \"We"),
        # Other tokens of the same letters, and the edits count tokens.
        (M2.replace("ca n't", "can't"), "id '1': token 2 is 'ca'; line 4: \"can't\")"),
        (M2.replace("swim , but", "swim ,but"), "id '1': token 5 is ','; line 4: ',but')"),
        (M2.replace("swim ,", "swim,"), "id '1': token 4 is 'swim'; line 4: 'swim,')"),
        ("", "holds no sentence"),
    ],
)
def test_bad_gold_files_are_refused_in_one_line(corrected, tmp_path, capsys, text, message):
    path = tmp_path / "bad.m2"
    path.write_text(text, encoding="utf-8")
    assert score.main([corrected, "--m2", str(path), "--metrics", "m2"]) == 1
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1, captured.err


def test_sources_in_natural_text_take_the_tokens_of_the_file(tmp_path, gold, capsys):
    natural = [detokenize(source) for source in SOURCES]
    lines = [
        {"task": "t", "category": "", "id": str(i), "references": [text], "prediction": text}
        | {"source": text}
        for i, text in enumerate(natural)
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = summary(capsys, str(path), "--m2", gold, "--metrics", "m2,unchanged")
    assert [each["mean"] for each in found["overall"]["instances"]["means"].values()] == [0, 100]
    # Quotation marks have several forms.
    lines[1]["source"] = lines[1]["prediction"] = "I said \"I can't 'do' it.\""
    quoted = tmp_path / "quoted.m2"
    quoted.write_text(M2.replace(SOURCES[1], "I said `` I ca n't ' do ' it . ''"))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary(capsys, str(path), "--m2", str(quoted), "--metrics", "m2")
    # A word of the source may become several tokens, not the other way round.
    lines[0]["source"], lines[1]["source"] = "He go to sch ool.", natural[1]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert score.main([str(path), "--m2", gold, "--metrics", "m2"]) == 1
    assert "(first in prediction 1, id '0': token 4 is 'sch'; line 1: 'school')" in (
        capsys.readouterr().err
    )


def test_crlf_gold_files_score_the_same(corrected, gold, tmp_path, capsys):
    crlf = tmp_path / "crlf.m2"
    crlf.write_bytes(M2.replace("\n", "\r\n").encode())
    first, second = (
        summary(capsys, corrected, "--m2", str(path), "--metrics", "m2")["overall"]
        for path in (gold, crlf)
    )
    assert first == second


def test_a_metric_says_what_it_lacks(tmp_path, capsys):
    path = write(tmp_path / "p.jsonl", SOURCES, source=None)
    assert score.main([path, "--metrics", "gleu"]) == 1
    assert capsys.readouterr().err == (
        "error: metric 'gleu': task 't', id '0': field 'source': missing; "
        "allowed: predictions that carry source\n"
    )
    assert score.main([path, "--metrics", "gelu"]) == 1
    assert "metric 'gelu': unknown; did you mean 'gleu'?" in capsys.readouterr().err


def test_label_metrics_take_the_labels_of_the_task():
    rows = [Prediction("t", "", "", "", (label,), "yes") for label in ("yes", "no")]
    rows.append(Prediction("t", "", "", "", ("no",), "perhaps"))
    measured = measure(rows, ["label_accuracy", "label_validity"])
    scores = [[round(value, 3) for value in (row.score or {}).values()] for row in measured.rows]
    assert scores == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
