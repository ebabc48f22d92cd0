"""Arms that nothing could decode, and data that no model could write, are refused at the start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import pytest

from mixtures.vocabularies import bundled_vocabulary
from t5x_ext.decoding import Beam, Contrastive, Greedy, Sampling
from t5x_ext.errors import ConfigError
from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import T5Config, Transformer
from t5x_ext.partitioning import PjitPartitioner
from t5x_ext.studies import Arm, Recipe
from t5x_ext.studies.generated_data import check_generated
from t5x_ext.studies.recipes import InitialModel
from t5x_ext.studies.self_specialization import self_specialization_arms, self_specialization_data
from t5x_ext.study import study

VOCABULARY = bundled_vocabulary()
SMALL = {"vocab_size": 768, "emb_dim": 8, "num_heads": 1, "head_dim": 8, "mlp_dim": 8}
LENGTHS = {"inputs": 64, "targets": 8}
ONE = PjitPartitioner(devices=jax.devices()[:1])


def llama(max_length: int = 4096) -> DecoderOnlyModel:
    config = LlamaConfig(num_layers=1, num_kv_heads=1, max_length=max_length, **SMALL)
    return DecoderOnlyModel(Transformer(config), VOCABULARY)


def t5() -> EncoderDecoderModel:
    config = T5Config(num_encoder_layers=1, num_decoder_layers=1, **SMALL)
    return EncoderDecoderModel(Transformer(config), VOCABULARY, VOCABULARY)


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"decoding": "beam"}, "Arm a: decoding 'beam'; allowed: Greedy"),
    ({"decoding": Greedy}, "Arm a: decoding <class .*; allowed: Greedy"),
    ({"output_limit": (64, 2, 32)}, r"Arm a: output_limit \(64, 2, 32\); allowed: make_limit"),
    ({"stop": "###"}, "Arm a: stop: '###'; allowed: a list of texts"),
    ({"decoding": Beam(), "stop": ("###",)}, "Arm a: stop: not with Beam; allowed: Greedy"),
    ({"decoding": Sampling(min_length=8)}, "Arm a: Sampling.min_length: 8; allowed: less than 8"),
    ({"decoding": Greedy(forced_prefix=(5,) * 8)}, "Arm a: Greedy.forced_prefix"),
    ({"decoding": Greedy(forced_prefix=(5_000,))}, "Arm a: Greedy.forced_prefix: .* 0 to 767"),
    ({"decoding": Contrastive()}, "Arm a: decoding Contrastive, which needs an amateur; allowed"),
    ({"stop": ("\n\n", "\n")}, "Arm a: stop .*: the vocabulary cannot write any of them"),
]


@pytest.mark.parametrize(("fields", "message"), IMPOSSIBLE)
@pytest.mark.parametrize("make", [llama, t5])
def test_impossible_decoding_is_refused_before_anything_is_tuned(
    make: Any, fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    def run() -> None:
        study(
            model=make(),
            study_dir=str(tmp_path / "study"),
            initials=[InitialModel("pretrained")],
            arms=[
                Arm("fine", "STL", "pretrained", "tk.def", ("n10",)),
                Arm("a", "STL", "pretrained", "tk.def", ("n10",), **fields),
            ],
            recipe=Recipe(LENGTHS),
            partitioner=ONE,
        )

    with pytest.raises(ConfigError, match=message) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "study").exists()


def test_rows_that_a_model_has_no_room_to_write_are_refused(monkeypatch) -> None:
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    arms = self_specialization_arms("harbour", ("harbour_log",))
    settings = InstructionSettings("x"), ResponseSettings("x", max_new_tokens=900)
    data = self_specialization_data("harbour", *settings)
    recipe, names = Recipe({"inputs": 64, "targets": 900}), ["self.harbour.harbour_log"]
    check_generated(data, arms, recipe, names, llama())
    with pytest.raises(ConfigError, match="GeneratedData r1_docs0: a request that shows the seed"):
        check_generated(data, arms, recipe, names, llama(64))
    with pytest.raises(
        ConfigError, match="GeneratedData r1_docs0: tasks_of 'r3'; allowed: generic"
    ):
        missing = [dataclasses.replace(one, tasks_of="r3") for one in data]
        check_generated(missing, arms, recipe, names, llama())
    with pytest.raises(ConfigError, match="r1_docs0: depends on itself: r1_docs0 -> r1_docs0"):
        circle = [dataclasses.replace(one, tasks_of=one.name) for one in data]
        check_generated(circle, arms, recipe, names, llama())
    few = InstructionSettings("x", num_demonstrations=1, max_new_tokens=8)
    short = [dataclasses.replace(one, asking=few) for one in data]
    expected = "GeneratedData r1_docs0: ResponseSettings.max_new_tokens: 900; allowed: at most"
    with pytest.raises(ConfigError, match=expected):
        check_generated(short, arms, recipe, names, llama(950))
    with pytest.raises(ConfigError, match="GENERATED: a t5 model has an encoder; allowed"):
        check_generated(data, arms, recipe, names, t5())


@pytest.mark.parametrize("fits", [True, False])
def test_requests_for_tasks_are_those_of_the_data_that_writes_them(monkeypatch, fits: bool) -> None:
    """Data of data of data: only the last of these asks for tasks."""
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    short = InstructionSettings("x", num_demonstrations=1, max_new_tokens=8)
    answering = ResponseSettings("x", max_new_tokens=8)
    one, *_ = self_specialization_data("harbour", short, answering, passages=(0,))
    long = dataclasses.replace(short, num_demonstrations=19)
    last, between = (short, long) if fits else (long, short)
    data = [
        dataclasses.replace(one, tasks_of="between"),
        dataclasses.replace(one, name="between", tasks_of="last", asking=between),
        dataclasses.replace(one, name="last", asking=last),
    ]
    arms = self_specialization_arms(
        "harbour", ("harbour_log",), passages=(0,), only=("ss_r1_docs0",)
    )
    study = arms, Recipe(LENGTHS), ["self.harbour.harbour_log"], llama(1500)
    if fits:
        check_generated(data, *study)
        return
    with pytest.raises(ConfigError, match="GeneratedData r1_docs0: a request that shows the seed"):
        check_generated(data, *study)
