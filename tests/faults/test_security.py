"""Nothing that is read is ever run: no pickles, no eval, no archive that writes where it likes."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from t5x_ext.checkpoints import open_source
from t5x_ext.errors import ConfigError

REPO = Path(__file__).resolve().parents[2]

# A call by any of these names runs, or may run, what it is given.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads",
    "cloudpickle.load", "cloudpickle.loads", "joblib.load", "marshal.load", "marshal.loads",
    "shelve.open", "pandas.read_pickle", "pd.read_pickle",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen",
    "subprocess.getoutput", "subprocess.getstatusoutput",
    "extractall", "extract", "shutil.unpack_archive",
}  # fmt: skip
# Not data: type hints that stand in imported modules.
ALLOWED = {("t5x_ext/gin_strict/hints.py", "eval")}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """(file, dotted name, call) of every call in the packages and scripts."""
    for package in ("t5x_ext", "mixtures", "tpu_scripts", "benchmarks"):
        for path in sorted((REPO / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    yield str(path.relative_to(REPO)), ast.unparse(node.func), node


def test_no_call_runs_what_it_reads() -> None:
    found, seen = [], 0
    for file, name, call in calls():
        seen += 1
        short = name.rpartition(".")[2]
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        forbidden = name in FORBIDDEN or short in FORBIDDEN - {"eval", "exec", "compile"}
        forbidden |= keywords.get("shell") == "True" or keywords.get("allow_pickle") == "True"
        forbidden |= short == "load" and "torch" in name and keywords.get("weights_only") != "True"
        if forbidden and (file, name) not in ALLOWED:
            found.append(f"{file}:{call.lineno}: {name}")
    assert seen > 1000
    assert found == []


def test_torch_is_told_to_read_weights_only() -> None:
    loads = [call for _, name, call in calls() if name == "torch.load"]
    assert loads
    for call in loads:
        assert ("weights_only", "True") in [(k.arg, ast.unparse(k.value)) for k in call.keywords]


class _Hostile:
    """Creates a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.path, "w")


@pytest.mark.parametrize("file", ["pytorch_model.bin", "checkpoint"])
def test_a_pickle_that_acts_is_refused_and_does_not_act(tmp_path: Path, file: str) -> None:
    if file == "pytorch_model.bin":
        pytest.importorskip("torch")
    directory = tmp_path / "weights"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "t5"}')
    (directory / file).write_bytes(pickle.dumps({"x": _Hostile(str(tmp_path / "was_run"))}))
    with pytest.raises(ConfigError):
        open_source(str(directory))
    assert not (tmp_path / "was_run").exists()
    pickle.loads((directory / file).read_bytes())  # it would have acted
    assert (tmp_path / "was_run").exists()
