"""The audit: hand-made tasks with known faults, the bundled suite, and the real release."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import gin
import pytest
import sentencepiece

import mixtures
from mixtures.names import task_name
from mixtures.prompts import get_prompt
from mixtures.records import Example, Row
from mixtures.vocabularies import ByteVocabulary, SentencePieceVocabulary, bundled_vocabulary
from t5x_ext import audit
from t5x_ext.audits.flags import find_flags
from t5x_ext.audits.measures import (
    Auditor,
    count_repeated,
    fold,
    label_share,
    shared_inputs,
    shared_sources,
)
from t5x_ext.audits.records import Lengths, Limit, SharedInputs, SharedSource, TaskAudit, TaskRows
from t5x_ext.audits.rows import load_rows
from t5x_ext.configs import SuperNIConfig
from t5x_ext.data.opening import load_examples

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_context(monkeypatch):
    """Each test configures what it needs, and leaves the defaults behind."""
    monkeypatch.delenv("SUPERNI_DIR", raising=False)
    yield
    mixtures.configure()


def row(index: int, text: str = "q", target: str = "yes", definition: str = "", examples=()) -> Row:
    return Row(
        task="t",
        category="c",
        id=str(index),
        definition=definition,
        input=text,
        references=(target,),
        positive_examples=tuple(examples),
        negative_examples=(),
    )


def task(name: str = "t", track: str = "test", sources=("s",), **splits) -> TaskRows:
    parts = {"train": (), "validation": (), "test": ()} | splits
    return TaskRows(
        name=name,
        category="c",
        track=track,
        sources=sources,
        render=get_prompt("ql.def_pos2").render,
        **{k: tuple(v) for k, v in parts.items()},
    )


def measure(rows: TaskRows, limits=((512, 128),), vocabulary=None) -> TaskAudit:
    auditor = Auditor(vocabulary or ByteVocabulary(), [Limit(*lengths) for lengths in limits])
    return auditor.measure(rows)


def test_lengths_count_bytes_and_the_end_of_sequence():
    sizes = range(1, 22)
    rows = task(test=[row(size, text="x" * size, target="y" * size) for size in sizes])
    frame = len(rows.render(row(0, text="")))
    measured = measure(rows)
    assert measured.target == Lengths(12.0, 12.0, 21.0, 22)
    lengths = [12.0 + frame, 12.0 + frame, 21.0 + frame, 22 + frame]
    assert measured.prompt == Lengths(*lengths)


def test_cut_tells_prompts_from_questions():
    examples = [Example("i" * 50, "o" * 50)]
    short = row(0, text="x", definition="d" * 100, examples=examples)
    long = row(1, text="x" * 300, definition="d" * 100, examples=examples)
    rows = task(test=[short, long, row(2, text="x", target="y" * 40)])
    prompt_tokens = len(rows.render(short)) + 1
    (fits, cut) = measure(rows, [(prompt_tokens, 41), (prompt_tokens - 1, 40)]).cuts
    assert (fits.prompts, fits.questions, fits.targets) == (1, 1, 0)
    assert (cut.prompts, cut.questions, cut.targets) == (2, 1, 1)


def test_counts_equal_what_the_loader_truncates():
    name = "superni.ql.def_pos2.held_in.n50"
    mixtures.configure()
    tasks = load_rows(name)
    vocabulary = bundled_vocabulary()
    middle = statistics.median(measure(rows, vocabulary=vocabulary).prompt.p50 for rows in tasks)
    lengths = {"inputs": int(middle), "targets": 32}
    examples = [
        example
        for split in ("train", "validation", "test")
        for example in load_examples(name, split, lengths)
    ]
    auditor = Auditor(vocabulary, [Limit(**lengths)])
    found = [auditor.measure(rows) for rows in tasks]
    assert sum(measured.rows for measured in found) == len(examples)
    cut = sum(measured.cuts[0].prompts for measured in found)
    assert 0 < cut == sum(example.truncated for example in examples) < len(examples)


def test_duplicates_exact_and_near():
    rows = task(
        train=[row(0, "The cat."), row(1, "Dogs bark"), row(2, "?!")],
        test=[row(3, "The cat."), row(4, "dogs, bark!"), row(5, "the cats"), row(6, "!?")],
    )
    measured = measure(rows)
    assert (measured.duplicates, measured.near_duplicates) == (1, 2)


def test_label_share_takes_the_most_frequent_target_of_either_split():
    train = [row(i, target=target) for i, target in enumerate(["yes", "yes ", "yes", "no"])]
    test = [row(10 + i, target=target) for i, target in enumerate(["yes", "no"])]
    share = label_share(task(train=train, test=test))
    assert (share.label, share.train, share.test, share.gap) == ("yes", 0.75, 0.5, 0.25)
    share = label_share(task(train=train[:1] + train[3:], test=test[1:]))
    assert (share.label, share.train, share.test) == ("no", 0.5, 1.0)
    share = label_share(task(track="train", train=train))
    assert (share.train, share.test, share.gap) == (0.75, None, 0.0)
    measured = measure(task(validation=train))
    assert (measured.label.label, measured.label.train, measured.label.test) == ("", None, None)
    assert find_flags([measured]) == []


def test_unknown_pieces_and_lost_white_space():
    rows = task(test=[row(0, "a {b}"), row(1, "a\nb", "c  d"), row(2, "plain")])
    with_bytes = measure(rows)
    assert (with_bytes.unknown_prompts, with_bytes.lost_space_inputs) == (0, 0)
    vocabulary = bundled_vocabulary()
    auditor = Auditor(vocabulary, [Limit(512, 128)])
    unknown = [c for c in "{}" if vocabulary.unk_id in vocabulary.encode(c)]
    assert auditor.lost_spaces == ("newline", "tab", "repeated space")
    measured = auditor.measure(rows)
    assert sorted(measured.unknown_characters) == unknown
    assert measured.unknown_prompts == bool(unknown)
    assert (measured.lost_space_inputs, measured.lost_space_targets) == (1, 1)


@pytest.fixture(scope="module")
def t5_like(tmp_path_factory) -> SentencePieceVocabulary:
    """As T5's: NFKC, no braces (they were filtered out of its data), curly quotes kept."""
    text = "He said “yes” to a question, and she said “no” to 1 in 2 of a b c d e f g. " * 20
    path = tmp_path_factory.mktemp("vocabulary") / "spiece"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.split(". ")),
        model_prefix=str(path),
        vocab_size=45,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        required_chars="⁄",
    )
    return SentencePieceVocabulary(f"{path}.model")


def test_what_sentencepiece_does_to_braces_quotes_and_symbols(t5_like):
    texts = ["a {b}", "a “b”", "a ½ b", "a\u00a0b", "a\nb", "a  b"]
    assert [t5_like.decode(t5_like.encode(text)) for text in texts] == [
        "a  ⁇ b ⁇ ",
        "a “b”",
        "a 1⁄2 b",
        "a b",
        "a b",
        "a b",
    ]
    measured = measure(
        task(test=[row(i, text, text) for i, text in enumerate(texts)]), vocabulary=t5_like
    )
    assert (measured.unknown_targets, sorted(measured.unknown_characters)[-2:]) == (1, ["{", "}"])
    assert (measured.rewritten_prompts, measured.rewritten_targets) == (2, 2)
    assert sorted(measured.rewritten_characters) == ["\u00a0", "½"]
    assert (measured.lost_space_inputs, measured.lost_space_targets) == (2, 2)
    kinds = [flag.kind for flag in find_flags([measured])]
    assert kinds[-3:] == ["unknown pieces", "rewritten characters", "lost white space"]
    with_bytes = measure(task(test=[row(0, "½", "½")]))
    assert (with_bytes.rewritten_prompts, with_bytes.rewritten_characters) == (0, "")


def test_shared_inputs_and_sources_between_tasks():
    first = task("first", train=[row(0, "A b.")], test=[row(1, "c"), row(2, "d")])
    second = task("second", train=[row(0, "C!")], test=[row(1, "a b")], sources=("x; S", "u"))
    third = task("third", "train", train=[row(0, "d"), row(1, "e")], sources=("s",))
    assert shared_inputs([first, second, third], {"first"}) == [
        SharedInputs(("first", "second"), inputs=2, tested_and_trained=2),
        SharedInputs(("first", "third"), inputs=1, tested_and_trained=1),
    ]
    assert shared_inputs([first, second, third], set()) == []
    assert shared_sources([first, second, third], {"third"}) == [
        SharedSource("s", train_tasks=("third",), test_tasks=("first", "second"))
    ]
    assert shared_sources([first, second], {"first"}) == []


def write_release(directory: Path, train: list[str], test: list[str]) -> None:
    """Tasks of one row each, all with the same input; those of the test list have none to train."""
    lists = directory / "splits" / "default"
    lists.mkdir(parents=True)
    (directory / "tasks").mkdir()
    for track, names in (("train", train), ("test", test)):
        (lists / f"{track}_tasks.txt").write_text("\n".join(names))
    for name in train + test:
        row = {"id": f"{name}-0", "input": "yes", "output": ["a"]}
        fields = {"Categories": ["c"], "Definition": ["d"], "Instances": [row]}
        examples = {"Positive Examples": [], "Negative Examples": []}
        (directory / "tasks" / f"{name}.json").write_text(json.dumps(fields | examples))


def test_one_input_in_very_many_tasks_is_told_once(tmp_path, capsys, caplog):
    # Counted per pair of tasks, this would be 1.5 million findings.
    names = [f"task{number:04d}" for number in range(2000)]
    write_release(tmp_path, train=names[:1000], test=names[1000:])
    arguments = ["--mixture=held_in", f"--data_dir={tmp_path}", f"--out={tmp_path / 'out'}"]
    assert audit.main(arguments) == 0
    result = json.loads((tmp_path / "out" / "audit.json").read_text())
    (shared,) = result["shared_inputs"]
    assert shared["tasks"] == names[1000:] + names[:1000]
    assert (shared["inputs"], shared["tested_and_trained"]) == (1, 1)
    (flag,) = [flag for flag in result["flags"] if flag["kind"] == "shared inputs"]
    assert flag["subject"] == "task1000, task1001, task1002 and 1997 more"
    assert f"{flag['subject']}  1 inputs tested in one" in capsys.readouterr().out
    # The tasks that are audited have flags for that; nothing is logged of them.
    assert sum(flag["kind"] == "no training rows" for flag in result["flags"]) == 1000
    assert not [message for message in caplog.messages if "training" in message]


def test_other_tasks_without_training_rows_are_told_in_one_line(tmp_path, caplog):
    write_release(tmp_path, train=["a", "b"], test=["e", "f", "g", "h", "i"])
    settings = SuperNIConfig(data_dir=str(tmp_path))
    result = audit.audit(audit.Settings(mixtures=("a",), superni=settings))
    assert [found["name"] for found in result["tasks"]] == ["a"]
    assert [message for message in caplog.messages if "training" in message] == [
        "no training rows in 5 of the 6 tasks that are not audited: e, f, g and 2 more"
    ]


def test_inputs_of_several_tasks_count_once_for_all_of_them():
    tested = task("tested", test=[row(0, "a"), row(1, "b"), row(2, "c")])
    trained = task("trained", train=[row(0, "a"), row(1, "b")])
    third = task("third", train=[row(0, "a")], test=[row(1, "c")])
    tasks = [tested, trained, third]
    assert shared_inputs(tasks, {"tested"}) == [
        SharedInputs(("tested", "trained", "third"), 1, 1),
        SharedInputs(("tested", "trained"), 1, 1),
        SharedInputs(("tested", "third"), 1, 0, tested_together=1),
    ]
    # "a" is tested in one task and trained on in another, but neither is `bystander`.
    bystander = task("bystander", validation=[row(0, "a")])
    assert shared_inputs([*tasks, bystander], {"bystander"}) == [
        SharedInputs(("bystander", "tested", "trained", "third"), 1, 0, validated_and_trained=1)
    ]
    # One task that tests what it trains on itself is a separate leak, not a shared input.
    repeated = task("repeated", train=[row(0, "z")], test=[row(1, "z")])
    elsewhere = task("elsewhere", validation=[row(0, "z")])
    (found,) = shared_inputs([repeated, elsewhere], {"repeated"})
    assert found.tested_and_trained == 0


def test_flags_come_by_kind_and_then_by_weight():
    constant = task("constant", train=[row(i) for i in range(4)])
    empty = task("empty", test=[row(0), row(1, target="no")])
    leaking = task("leaking", train=[row(0, "x"), row(1, target="no")], test=[row(2, "x", "no")])
    flags = find_flags(measure(rows) for rows in (constant, empty, leaking))
    assert [(flag.kind, flag.subject) for flag in flags] == [
        ("leak", "leaking"),
        ("no training rows", "empty"),
        ("label skew", "constant"),
        ("label skew", "leaking"),
    ]


def test_command_on_the_bundled_suite(capsys, tmp_path):
    mixture = task_name("ql.def_pos2", "held_in", "n10")
    arguments = ["--mixture", mixture, "--limits", "64,1024/32", "--json", "--out", str(tmp_path)]
    status = audit.main(arguments)
    captured = capsys.readouterr()
    assert status == 0, captured.err
    result = json.loads(captured.out)
    assert result == json.loads((tmp_path / "audit.json").read_text())
    assert [cut["limit"] for cut in result["tasks"][0]["cuts"]] == ["64/128", "1024/32"]
    assert all(found["train"] == 10 for found in result["tasks"])
    text = (tmp_path / "audit.txt").read_text()
    assert all(found["name"] in text for found in result["tasks"])
    assert "audit: " in captured.err


def test_command_takes_names_lengths_and_vocabulary_from_gin():
    # In its own process: gin's registry is global, and what is imported here would stay in it.
    command = [
        *(sys.executable, "-m", "t5x_ext.audit", "--json"),
        "--gin_file=models/t5_1_1_tiny.gin",
        "--gin_file=runs/train.gin",
        "--gin.MODEL_DIR='unused'",
        "--gin.TRAIN_STEPS=1",
        "--gin.MIXTURE_OR_TASK_NAME='held_in'",
        "--gin.PROMPT='ql.io'",
        "--gin.BUDGET=5",
        "--gin.TASK_FEATURE_LENGTHS={'inputs': 48, 'targets': 16}",
    ]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["mixtures"] == ["superni.ql.io.held_in.n5"]
    assert [cut["limit"] for cut in result["tasks"][0]["cuts"]] == ["48/16", "512/128", "1024/128"]
    assert result["vocabulary"]["size"] == bundled_vocabulary().vocab_size


def test_command_on_a_file_of_ones_own(capsys, tmp_path):
    lines = [
        {"instruction": "Say it in French.", "input": text, "output": target}
        for text, target in (("good day", "bonjour"), ("thanks", "merci"))
    ]
    path = tmp_path / "french.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "french.test.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert audit.main(["--mixture", str(path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["tasks"]
    assert (found["name"], found["train"], found["test"]) == ("french", 2, 1)
    assert found["duplicates"] == 1
    assert audit.main(["--mixture", str(path), "--out", str(tmp_path)]) == 0
    header = capsys.readouterr().out.splitlines()[0]
    assert header.endswith(f" from {path}") and "bundled" not in header


def test_findings_that_are_named_fail_the_command(capsys, tmp_path):
    line = {"instruction": "Say it in French.", "input": "good day", "output": "bonjour"}
    for name in ("french.jsonl", "french.test.jsonl"):
        (tmp_path / name).write_text(json.dumps(line) + "\n")
    arguments = ["--mixture", str(tmp_path / "french.jsonl"), "--fail_on"]
    for kinds, status in (
        ("leak", 1),
        ("long_targets,leak", 1),
        ("any", 1),
        ("long_targets,shared inputs", 0),
    ):
        assert audit.main([*arguments, kinds]) == status
        told = capsys.readouterr()
        assert told.out.startswith("1 tasks, 1 rows of ")  # the report all the same
        assert ("error: --fail_on: found 1 leak" in told.err) == bool(status)
    assert audit.main([*arguments, "laek"]) == 1
    assert "--fail_on: 'laek'; " in capsys.readouterr().err


def test_synthetic_rows_that_repeat_fail_the_command(capsys, tmp_path):
    line = {"instruction": "Say it.", "input": "good day", "output": "bonjour"}
    path = tmp_path / "train.jsonl"
    path.write_text((json.dumps(line) + "\n") * 2)
    arguments = ["--synthetic", str(path), "--fail_on"]
    assert audit.main([*arguments, "seed_copies,shared"]) == 0
    assert audit.main([*arguments, "duplicates"]) == 1
    assert "found 1 duplicates" in capsys.readouterr().err
    assert audit.main([*arguments, "leak"]) == 1
    assert "--fail_on: 'leak'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lengths", ["{'input': 64, 'targets': 16}", "{'inputs': -5, 'targets': 16}", "{}"]
)
def test_lengths_that_training_refuses_are_refused(lengths, capsys):
    files = ["--gin_file=models/t5_1_1_tiny.gin", "--gin_file=runs/train.gin"]
    macros = {"MODEL_DIR": "'unused'", "TRAIN_STEPS": 1, "MIXTURE_OR_TASK_NAME": "'held_in'"}
    macros["TASK_FEATURE_LENGTHS"] = lengths
    assert audit.main([*files, *(f"--gin.{name}={value}" for name, value in macros.items())]) == 1
    gin.clear_config()
    error = capsys.readouterr().err
    assert error.startswith(f"error: TASK_FEATURE_LENGTHS: {lengths}; allowed: 'inputs' and ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no mixture to audit"),
        (["--mixture", "superni.ql.def_pos2.held_im.all"], "did you mean 'held_in'"),
        (["--mixture", "superni.ql.io.held_in.all", "--limits", "512,x"], "--limits: 'x'"),
        (["--mixture", "superni.ql.io.held_in.all", "--data_dir", "nowhere"], "'nowhere'"),
        (["--mixture", "superni.ql.io.held_in.all", "--vocabulary", "no.model"], "no.model"),
        (["--mixture", "held_in", "--seeds", "x"], "--seeds: allowed only with --synthetic FILE"),
        (["--synthetic", "x", "--limits", "512"], "--limits: allowed not with --synthetic FILE"),
    ],
)
def test_mistakes_get_one_line(arguments, message, capsys):
    assert audit.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_real_release_repeats_the_figures_of_its_readme(superni_dir):
    """Duplicates, shared inputs, label skew and the tasks that suffer at 512 tokens."""
    mixtures.configure(data_dir=superni_dir)
    held_in = load_rows("superni.ql.def_pos2.held_in.all")
    pretune = load_rows("superni.ql.def_pos2.pretune.all")
    assert (len(held_in), len(pretune)) == (100, 241)
    by_number = {rows.name.split("_")[0]: rows for rows in held_in}

    assert sum(count_repeated(rows) for rows in held_in) == 0
    near = {number: count_repeated(rows, fold) for number, rows in by_number.items()}
    assert sum(near.values()) == 5 and near["task1390"] == 4
    shared = shared_inputs(held_in, {rows.name for rows in held_in})
    pairs = {frozenset(name.split("_")[0] for name in found.tasks) for found in shared}
    for pair in ("619 620", "1612 1615", "879 880", "232 233", "1195 1622", "670 671"):
        assert frozenset(f"task{number}" for number in pair.split()) in pairs
    sources = shared_sources(held_in + pretune, {rows.name for rows in held_in})
    wsc = next(found for found in sources if found.source == "enhancedwsc")
    assert wsc.test_tasks == ("task249_enhanced_wsc_pronoun_disambiguation",)

    auditor = Auditor(bundled_vocabulary(), [Limit(512, 128), Limit(1024, 128)])
    for number in ("task602", "task1356", "task1540", "task233"):
        measured = auditor.measure(by_number[number])
        at_512, at_1024 = measured.cuts
        assert at_512.prompts == measured.rows
        assert at_512.questions > at_1024.questions
    for number, train in (("task879", 1.0), ("task020", 0.84), ("task642", 157 / 190)):
        measured = auditor.measure(by_number[number])
        assert measured.label.train == pytest.approx(train) and measured.label.test == 0.5
        assert "label skew" in {flag.kind for flag in find_flags([measured])}
