"""What a study no longer needs leaves its process."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from etils import epath

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.lora import LoRA
from t5x_ext.models.network import Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies import InitialModel, Recipe, self_specialization_data
from t5x_ext.studies.generated_data import GeneratedData, GeneratedKeys
from t5x_ext.studies.generation import Generation
from t5x_ext.studies.initial_models import InitialModels
from t5x_ext.studies.tuning import Tuner

CONFIG = LlamaConfig(
    vocab_size=64, emb_dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=16
)
NAMES = ("r1_docs0", "r1_docs1", "r1_docs5")


@pytest.fixture
def no_collections() -> Iterator[None]:
    """Python looks for cycles when it is told to, and not when it happens to."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Brief(Generation):
    """Writes nothing but loads its models and compiles for them."""

    def _write(self, data: GeneratedData, *rest: Any) -> Counter[str]:
        model = self._load("base", None)
        model.generate_tokens([[5, 6, 7]], max_new_tokens=4, eos_ids=[1])
        return Counter(kept=1)


def test_models_that_write_leave_neither_arrays_nor_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_collections: None
) -> None:
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    mesh = PjitPartitioner(devices=jax.devices()[:1])
    module = Transformer(CONFIG, LoRA(2))
    tuner = Tuner(DecoderOnlyModel(module, bundled_vocabulary()), mesh, Recipe())
    unused: Any = None
    bases = {"base": InitialModel("base")}  # random parameters
    initials = InitialModels(bases, {"base": "k"}, tuner, unused, epath.Path(tmp_path))
    settings = InstructionSettings("harbour"), ResponseSettings("harbour")
    data = {each.name: each for each in self_specialization_data("harbour", *settings)}
    keys = GeneratedKeys(data, {"base": "weights"}, {}, 0, unused, {})
    wanted = dict.fromkeys(NAMES, 1)
    generation = Brief(keys, wanted, initials, tuner, epath.Path(tmp_path))
    left = []
    for name in NAMES:
        generation.make(name)
        arrays = sum(array.nbytes for array in jax.live_arrays())
        left.append((len(jax.devices()[0].client.live_executables()), arrays))
    assert left == left[:1] * len(NAMES)


FREED = """
from pathlib import Path
from t5x_ext import memory, startup

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

startup.keep_freed_memory()
blocks = [bytes(b"x" * (1 << 20)) for _ in range(256)]
last = bytearray(1 << 20)  # above the others: the end of the heap stays in use
full = resident()
del blocks
kept = resident()
memory.give_back()
print(full - kept, full - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_stays_until_it_is_given_back() -> None:
    environment = {"JAX_PLATFORMS": "cpu"}
    repo = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", FREED]
    done = subprocess.run(
        command, env=environment, cwd=repo, capture_output=True, text=True, check=True
    )
    kept, given_back = map(int, done.stdout.split())
    assert kept < 1 << 20
    assert given_back > 200 << 20
