"""The grid: what a cell's key depends on, the paper's arms, shards."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import optax
import pytest

import gin_configs
from mixtures.vocabularies import ByteVocabulary
from t5x_ext.errors import ConfigError
from t5x_ext.models import DecoderOnlyModel, EncoderDecoderModel, network
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.schedules import create_learning_rate_scheduler
from t5x_ext.studies import Arm, InitialModel, Recipe, paper_arms, store
from t5x_ext.studies.cells import Determinants, describe_model, digest, make_cells
from t5x_ext.training import optimizers

ARMS = (
    Arm("stl", "STL", "instruct", "tk.def", ("n10", "n100")),
    Arm("mtl", "MTL", "instruct", "tk.def", ("n10",)),
)


def cells_of(arms=ARMS, tasks=None, seeds=(0, 1), initials=None, common=None):
    return make_cells(
        arms,
        tasks or {"a": "hash a", "b": "hash b"},
        seeds,
        Determinants(
            initials or {"instruct": "weights"},
            common or {"recipe": {"epochs": 2}},
            lambda prompt: f"{prompt}.v1",
        ),
    )


def test_grid_has_every_combination_once() -> None:
    cells = cells_of()
    found = {(c.arm.name, c.budget, c.seed, c.tasks) for c in cells}
    stl = {("stl", b, s, (t,)) for b in ("n10", "n100") for s in (0, 1) for t in "ab"}
    assert found == stl | {("mtl", "n10", s, ("a", "b")) for s in (0, 1)}
    assert len({c.key for c in cells}) == len(cells) == 10


def test_paper_study_has_961_models() -> None:
    tasks = {f"task{i}": "x" for i in range(119)}
    initials = {"instruct": "a", "plain": "b", "pretrained": "c"}
    cells = cells_of(paper_arms(), tasks, (0,), initials)
    # ... and one more model: the pre-finetuning that `plain` stands for.
    assert len(cells) + 1 == 961
    stl = [c for c in cells if c.arm.setting == "STL"]
    assert len(stl) == 119 * 8


@pytest.mark.parametrize(
    "changes",
    [
        dict(tasks={"a": "another file", "b": "hash b"}),
        dict(initials={"instruct": "other weights"}),
        dict(common={"recipe": {"epochs": 3}}),
        dict(arms=[dataclasses.replace(arm, prompt="tk.pos2") for arm in ARMS]),
    ],
)
def test_key_changes_with_what_determines_the_result(changes) -> None:
    before = {(str(c)): c.key for c in cells_of()}
    after = {(str(c)): c.key for c in cells_of(**changes)}
    assert before["stl n10 seed 0 a"] != after["stl n10 seed 0 a"]


def test_key_does_not_change_with_the_rest_of_the_grid() -> None:
    few = cells_of(arms=ARMS[:1], tasks={"a": "hash a"}, seeds=(1,))
    keys = {c.key for c in cells_of()}
    renamed = [dataclasses.replace(arm, label="another label") for arm in ARMS]
    assert {c.key for c in few} <= keys
    assert {c.key for c in cells_of(arms=renamed)} == keys


def test_keys_tell_decoder_only_models_by_what_is_set() -> None:
    """Models without the two flags keep the description, and so the keys, that they had."""
    config = LlamaConfig(
        vocab_size=64,
        emb_dim=16,
        num_layers=1,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        mlp_dim=32,
    )

    def described(quantization: str | None = None, **flags: bool) -> dict:
        module = network.Transformer(config, quantization=quantization)
        optimizer = optimizers.AdamW()
        return describe_model(DecoderOnlyModel(module, ByteVocabulary(), optimizer, **flags))

    known = {"config", "vocabulary", "optimizer", "optimizer_settings"}
    known |= {"z_loss", "label_smoothing", "loss_normalizing_factor"}
    off = described(loss_on_prompt=False, inputs_bidirectional_attention=False)
    assert described() == off and off.keys() == known
    others = [
        described(loss_on_prompt=True),
        described(inputs_bidirectional_attention=True),
        described(loss_on_prompt=True, inputs_bidirectional_attention=True),
        described(quantization="nf4"),
    ]
    assert len({digest(each) for each in (off, *others)}) == 5


def test_digest_ignores_the_order_of_mappings() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_shards_share_out_every_cell_once() -> None:
    cells = cells_of(tasks={f"t{i}": "x" for i in range(40)})
    dealt = [store.deal(cells, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(c.key for part in dealt for c in part) == sorted(c.key for c in cells)
    assert all(len(part) > len(cells) / 6 for part in dealt)
    # A larger study deals the old cells to the same shards.
    more = cells_of(tasks={f"t{i}": "x" for i in range(50)})
    again = {c.key for c in store.deal(more, "2/3")}
    stl = {c.key for c in dealt[1] if c.arm.setting == "STL"}
    assert stl <= again


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_malformed_shard_is_refused(shard: str) -> None:
    with pytest.raises(ConfigError, match="allowed: I/N"):
        store.parse_shard(shard)


def test_mistakes_in_the_grid_are_named() -> None:
    with pytest.raises(ConfigError, match="'pretrained' is not among the study's; known: instruct"):
        cells_of(arms=[dataclasses.replace(ARMS[0], initial="pretrained")])
    with pytest.raises(ConfigError, match="two arms are called 'stl'"):
        cells_of(arms=[ARMS[0], ARMS[0]])
    with pytest.raises(ConfigError, match="are the same work"):
        cells_of(arms=[ARMS[0], dataclasses.replace(ARMS[0], name="twin")])
    with pytest.raises(ConfigError, match="setting 'XTL'; allowed: STL, MTL"):
        Arm("x", "XTL", "instruct", "tk.def", ("n10",))
    with pytest.raises(ConfigError, match="unknown arm 'stl_baseline_4'; did you mean 'stl_bas"):
        paper_arms(only=["stl_baseline_4"])
    with pytest.raises(ConfigError, match="set either path, or base and scope"):
        InitialModel("x", path="/somewhere", scope="pretune")


def test_recipe_shares_a_trainer_unless_the_schedule_decays() -> None:
    recipe = Recipe(min_steps=30)
    assert recipe.num_steps(10) == 30 and recipe.num_steps(50) == 50
    assert recipe.trainer(10) == recipe.trainer(50)
    decaying = dataclasses.replace(recipe, factors="linear_decay", warmup_steps=2)
    assert decaying.trainer(10) != decaying.trainer(50)
    rate = decaying.trainer(10).learning_rate_fn
    assert float(rate(2)) == pytest.approx(5e-5) and float(rate(6)) == pytest.approx(2.5e-5)
    assert float(rate(10)) < 1e-7
    with pytest.raises(ConfigError, match="Recipe.epochs: 0; allowed: 1 and more"):
        Recipe(epochs=0)


SHIPPED = sorted(
    {
        factors
        for path in (Path(gin_configs.__file__).parent / "studies").glob("*.gin")
        for factors in re.findall(r'^ +factors = "(.*)"', path.read_text(), re.MULTILINE)
    }
)


@pytest.mark.parametrize("factors", SHIPPED)
def test_the_peak_of_a_shipped_schedule_is_the_learning_rate(factors: str) -> None:
    recipe = Recipe(steps=50, learning_rate=1e-3, factors=factors, warmup_steps=5)
    rate = recipe.trainer(50).learning_rate_fn
    assert max(float(rate(step)) for step in range(1, 51)) == pytest.approx(1e-3)


@pytest.mark.parametrize("factor", ["constant", "linear_warmup"])
def test_a_learning_rate_that_counts_twice_is_refused(factor: str) -> None:
    with pytest.raises(ConfigError, match="linear_decay alone holds the learning rate"):
        Recipe(factors=f"{factor} * linear_decay")
    with pytest.warns(UserWarning, match="linear_decay alone holds the learning rate"):
        create_learning_rate_scheduler(f"{factor} * linear_decay", 1e-3)  # T5X's product


def described(optimizer) -> str:
    class Vocabulary:
        fingerprint = "v"

    config = network.T5Config(vocab_size=8)
    model = EncoderDecoderModel(
        network.Transformer(config), output_vocabulary=Vocabulary(), optimizer_def=optimizer
    )
    return digest(describe_model(model))


def test_a_study_tells_optax_optimizers_by_function_and_settings() -> None:
    keys = {
        described(optimizer)
        for optimizer in (
            optimizers.adam(1e-3),
            optimizers.adam(learning_rate=1e-3, b1=0.8),
            optimizers.adam(2e-3),
            optimizers.lion(1e-3),
            optimizers.Adafactor(clipping_threshold=optimizers.HParamMap([(".*", 0.5)])),
        )
    }
    assert len(keys) == 5
    assert described(optimizers.adam(1e-3)) == described(optimizers.adam(learning_rate=1e-3))


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optimizers.chain([optax.clip(1.0)]), "optimizers.chain does not say what it is made of"),
        (optimizers.sgd(lambda step: 0.1), "cannot be part of a cell's key; allowed: numbers"),
    ],
)
def test_an_optimizer_that_a_study_cannot_tell_is_refused(optimizer, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        described(optimizer)
