"""What arms that are tuned on generated data start from, and the recipes they may have."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import pytest

from mixtures.specialization import rows as domains
from mixtures.specialization.names import parse_name
from mixtures.vocabularies import bundled_vocabulary
from t5x_ext.errors import ConfigError
from t5x_ext.generation import InstructionSettings, ResponseSettings
from t5x_ext.models import DecoderOnlyModel
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.studies import Recipe
from t5x_ext.studies.generated_data import Domain, check_generated
from t5x_ext.studies.self_specialization import self_specialization_arms, self_specialization_data


def test_fewer_seeds_are_the_sample_of_the_mixture_and_not_the_first_tasks(monkeypatch) -> None:
    monkeypatch.delenv("SPECIALIZATION_DIR", raising=False)
    everything = Domain("harbour").seeds()
    some = Domain("harbour").seeds(10)
    rows = domains.rows_of(parse_name("self.harbour.seeds.n10"), "train", None)
    assert [seed.id for seed in some] == [row.id for row in rows]
    assert [seed for seed in everything if seed in some] == some != everything[:10]
    assert Domain("harbour").seeds(len(everything) + 5) == everything


def test_answers_longer_than_what_is_tuned_on_are_refused() -> None:
    arms = self_specialization_arms("harbour", ("harbour_log",))
    data = self_specialization_data("harbour", InstructionSettings("x"), ResponseSettings("x"))
    most = data[0].answering.max_new_tokens
    names = ["self.harbour.harbour_log"]
    config = LlamaConfig(
        vocab_size=768,
        emb_dim=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        mlp_dim=8,
        max_length=4096,
    )
    model = DecoderOnlyModel(Transformer(config), bundled_vocabulary())
    check_generated(data, arms, Recipe({"inputs": 64, "targets": most}), names, model)
    with pytest.raises(ConfigError, match=f"ss_r1_docs0: tuned on answers of up to {most} tokens"):
        short = Recipe({"inputs": 64, "targets": most - 1})
        check_generated(data, arms, short, names, model)
    with pytest.raises(ConfigError, match="TASKS: with generated data allowed"):
        check_generated(data, arms, Recipe(), ["writing.jfleg"], model)


def test_a_warm_up_by_share_follows_the_length_of_the_run() -> None:
    recipe = Recipe(factors="constant * linear_warmup", learning_rate=2.0, warmup_share=0.1)
    for steps in (10, 200):
        rate = recipe.trainer(steps).learning_rate_fn
        assert float(rate(jnp.int32(steps // 10))) == 2.0
        half = 0.0 if steps == 10 else 1.0
        assert float(rate(jnp.int32(steps // 20))) == pytest.approx(half, abs=1e-7)
    cut = dict(factors="linear_warmup * constant", steps=30)
    assert "40 of 30 steps" in Recipe(warmup_steps=40, **cut).warmup_remark()
    assert not Recipe(warmup_steps=29, **cut).warmup_remark()
    assert not Recipe(warmup_steps=40, steps=30).warmup_remark()  # constant
    with pytest.raises(ConfigError, match="warmup_steps 3 and warmup_share 0.1"):
        dataclasses.replace(recipe, warmup_steps=3)
    assert "warmup_share" not in Recipe().describe() and "warmup_share" in recipe.describe()
