"""Greedy decoding of many prompts: equal to teacher forcing, alone and in any batch."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_ext.data.records import Example
from t5x_ext.decoding import Beam, Greedy, Sampling, loop
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import OutputIds, ids_before_eos
from t5x_ext.decoding.predict import predict, to_rows
from t5x_ext.decoding.requests import LimitByKind, OutputLimit, make_limit
from t5x_ext.errors import ConfigError
from t5x_ext.metrics.predictions import Answer, PredictionLog
from t5x_ext.models import (
    BaseTransformerModel,
    DecoderOnlyModel,
    EncoderDecoderModel,
    network,
    parameters,
)
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.partitioning import PjitPartitioner

CONFIG = network.T5Config(
    vocab_size=64,
    emb_dim=16,
    num_heads=2,
    head_dim=8,
    num_encoder_layers=2,
    num_decoder_layers=2,
    mlp_dim=32,
    mlp_activations=("gelu", "linear"),
)
LLAMA = LlamaConfig(
    vocab_size=64, emb_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=32
)
MAX_LENGTH = 12


class Vocabulary:
    """Ids as text."""

    vocab_size = 60  # of 64 rows: four are padding
    eos_id = 1

    @staticmethod
    def decode(ids) -> str:
        return " ".join(map(str, ids))

    @staticmethod
    def encode(text) -> list[int]:
        return [int(word) for word in text.split()]


def make_model(family: str) -> BaseTransformerModel:
    if family == "llama":
        return DecoderOnlyModel(network.Transformer(LLAMA), Vocabulary())
    return EncoderDecoderModel(network.Transformer(CONFIG), Vocabulary(), Vocabulary())


@pytest.fixture(scope="module", params=["t5", "llama"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def weights(family: str) -> parameters.Params:
    made = make_model(family).init_params(jax.random.key(5))
    # Sharper logits than random ones, EOS likelier than a 64th, so that rows end at many places.
    kernel = made["decoder"]["logits_dense"]["kernel"] * 4.0
    made["decoder"]["logits_dense"]["kernel"] = kernel.at[:, 1].multiply(2.5)
    return made


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    rng = np.random.default_rng(0)

    def one(index: int) -> Example:
        tokens = np.append(rng.integers(3, 60, rng.integers(2, 100)), 1).astype(np.int32)
        return Example(
            f"e{index}", "task", "cat", tokens, (tokens[:2],), f"prompt {index}", ("ref",), False
        )

    return [one(index) for index in range(37)]


@functools.lru_cache
def make_decoder(family: str, batch_size: int, devices: int = 1) -> Decoder:
    partitioner = PjitPartitioner(devices=jax.devices()[:devices])
    return Decoder(make_model(family), partitioner, batch_size, 128, MAX_LENGTH)


def decode_all(decoder: Decoder, weights: parameters.Params, examples: list[Example]) -> np.ndarray:
    out = np.full((len(examples), MAX_LENGTH), -1)
    for indices, tokens in decoder.decode_tokens(weights, examples):
        out[indices] = tokens
    assert (out >= 0).all()
    return out


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("family", ["t5"], indirect=True)  # others: test_decoder_only_decoding.py
def test_cache_gives_the_logits_of_teacher_forcing(family: str, weights: parameters.Params) -> None:
    """Every produced token is the best continuation that the whole-sequence decoder sees."""
    inputs = jnp.array([[5, 9, 11, 1, 0, 0], [7, 1, 0, 0, 0, 0], [33, 34, 35, 36, 37, 1]])
    lengths, ids = jnp.array([4, 2, 6]), OutputIds.of(Vocabulary)
    generator = make_decoder(family, 8).model.generator
    tokens = loop.decode_batch(generator, weights, inputs, lengths, MAX_LENGTH, ids)
    tokens = np.asarray(tokens)
    batch = {
        "encoder_input_tokens": inputs,
        "decoder_input_tokens": jnp.asarray(np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]),
        "decoder_target_tokens": jnp.asarray(tokens),
        "decoder_segment_ids": jnp.ones_like(tokens),
        "encoder_segment_ids": (inputs > 0).astype(jnp.int32),
    }
    logits = np.array(EncoderDecoderModel(network.Transformer(CONFIG)).logits(weights, batch))
    logits[..., Vocabulary.vocab_size :] = -np.inf
    best = logits.argmax(-1)
    for row in range(3):
        length = len(ids_before_eos(tokens[row], (1,)))
        stop = min(length + 1, MAX_LENGTH)  # EOS included
        assert (best[row, :stop] == tokens[row, :stop]).all()
        assert (tokens[row, stop:] == 0).all()


@pytest.mark.slow
def test_cache_gives_the_logits_of_teacher_forcing_with_a_table_in_each_layer() -> None:
    config = CONFIG.replace(position_table_per_layer=True)
    weights = parameters.init_params(network.Transformer(config).specs, jax.random.key(5))
    for number, stack in enumerate(("encoder", "decoder")):
        bias = weights[stack]["layers"]["relpos_bias"]
        # Large enough, and different enough, that another layer's table gives other tokens.
        bias["rel_embedding"] = 3 * jax.random.normal(
            jax.random.key(number), bias["rel_embedding"].shape
        )
    model = EncoderDecoderModel(network.Transformer(config), Vocabulary(), Vocabulary())
    inputs = jnp.array([[5, 9, 11, 1, 0, 0], [33, 34, 35, 36, 37, 1]])
    decode = jax.jit(
        lambda weights: loop.decode_batch(
            model.generator,
            weights,
            inputs,
            jnp.array([4, 6]),
            MAX_LENGTH,
            OutputIds.of(Vocabulary),
        )
    )

    def forced(weights: parameters.Params, tokens: np.ndarray) -> np.ndarray:
        batch = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": jnp.asarray(np.pad(tokens, ((0, 0), (1, 0)))[:, :-1]),
            "decoder_target_tokens": jnp.asarray(tokens),
            "decoder_segment_ids": jnp.ones_like(tokens),
            "encoder_segment_ids": (inputs > 0).astype(jnp.int32),
        }
        return np.array(model.logits(weights, batch))[..., : Vocabulary.vocab_size].argmax(-1)

    tokens = np.asarray(decode(weights))
    stops = [min(len(ids_before_eos(row, (1,))) + 1, MAX_LENGTH) for row in tokens]
    best = forced(weights, tokens)
    for row, stop in enumerate(stops):
        assert (best[row, :stop] == tokens[row, :stop]).all()
    table = weights["decoder"]["layers"]["relpos_bias"]
    table["rel_embedding"] = table["rel_embedding"][::-1]
    assert (forced(weights, tokens) != best).any()


def test_rows_end_at_different_places(family, weights, examples) -> None:
    """Guards the fixture: a model whose rows all end together would prove nothing below."""
    tokens = decode_all(make_decoder(family, 8), weights, examples)
    lengths = {len(ids_before_eos(row, (1,))) for row in tokens}
    assert len(lengths) > 3


@pytest.mark.slow(but="llama-64")
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_row_does_not_depend_on_its_batch(family, weights, examples, batch_size) -> None:
    expected = decode_all(make_decoder(family, 8), weights, examples)
    assert (decode_all(make_decoder(family, batch_size), weights, examples) == expected).all()
    shuffled = np.random.default_rng(1).permutation(len(examples))
    others = decode_all(make_decoder(family, batch_size), weights, [examples[i] for i in shuffled])
    assert (others == expected[shuffled]).all()


@pytest.mark.optimised
def test_eight_devices_decode_as_one(family, weights, examples) -> None:
    one = decode_all(make_decoder(family, 8), weights, examples)
    assert (decode_all(make_decoder(family, 8, devices=8), weights, examples) == one).all()


def test_the_loop_stops_when_every_row_has_ended() -> None:
    """Rows that say EOS at once cost one position, however long they might have been."""
    method, ids = Greedy(), OutputIds((1,), 8)

    def positions(filler) -> int:
        def tokens_to_logits(count, tokens, index):
            return jax.nn.one_hot(jnp.full((3, 1), 1), 8), count + 1

        state = method.start(jnp.arange(3), filler, jnp.zeros(3, jnp.int32), 100)
        return loop.run_loop(tokens_to_logits, method, jnp.int32(0), state, 0, 100, ids)[0]

    assert positions(jnp.zeros((3,), bool)) == 1
    assert positions(jnp.ones((3,), bool)) == 0


def test_padding_rows_of_the_embedding_are_never_produced(family, weights, examples) -> None:
    kernel = weights["decoder"]["logits_dense"]["kernel"]
    loud = kernel.at[:, 60:].set(100.0 * jnp.abs(kernel[:, 60:]).max())
    changed = {**weights, "decoder": {**weights["decoder"], "logits_dense": {"kernel": loud}}}
    assert decode_all(make_decoder(family, 8), changed, examples).max() < 60


def test_predictions_are_in_input_order_and_resume(family, weights, examples, tmp_path) -> None:
    decoder = make_decoder(family, 8)
    whole = predict(decoder, weights, examples)
    assert [row.id for row in whole] == [example.id for example in examples]

    path = tmp_path / "predictions.jsonl"
    calls, written = [], []

    class Stops(Decoder):
        def decode_texts(self, model_params, left, numbers):
            calls.append(len(left))
            for count, pairs in enumerate(super().decode_texts(model_params, left, numbers)):
                if count == 2 and len(calls) == 1:
                    raise KeyboardInterrupt
                written.extend(pairs)
                yield pairs

    stopping = Stops(**{f: getattr(decoder, f) for f in decoder.__dataclass_fields__})
    with pytest.raises(KeyboardInterrupt):
        predict(stopping, weights, examples, path, "signature")
    assert not path.exists()
    done = len(written)
    assert 0 < done < 37

    def end() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):  # as SIGTERM in an evaluation
        predict(decoder, weights, examples, between=end)
    rows = predict(stopping, weights, examples, path, "signature")
    assert calls == [37, 37 - done]
    assert rows == whole
    assert path.read_text().count("\n") == 37


def test_work_can_end_before_every_batch_and_not_after_the_last(family, weights, examples) -> None:
    events = []

    class Told(Decoder):
        def decode_texts(self, *args):
            for pairs in super().decode_texts(*args):
                events.append("batch")
                yield pairs

    decoder = make_decoder(family, 8)
    told = Told(**{f: getattr(decoder, f) for f in decoder.__dataclass_fields__})
    predict(told, weights, examples, between=lambda: events.append("asked"))
    assert len(events) > 4
    assert events == ["asked", "batch"] * (len(events) // 2)


def test_a_part_of_a_split_draws_the_samples_of_the_whole(
    family, weights, examples, tmp_path
) -> None:
    decoder = dataclasses.replace(make_decoder(family, 8), method=Sampling(seed=3))
    whole = predict(decoder, weights, examples)
    path = tmp_path / "part.jsonl"
    rows = to_rows(examples[20:])
    with PredictionLog(path, rows, "signature") as log:  # left by a part that began elsewhere
        log.append([(0, Answer("of another number", None))])
    assert predict(decoder, weights, examples[20:], path, "signature", first=20) == whole[20:]
    assert predict(decoder, weights, examples[20:]) != whole[20:]


METHODS = {
    "greedy": Greedy(),
    "forced_eos": Greedy(forced_eos=True, forced_prefix=(5, 6)),
    "sampling": Sampling(temperature=0.7, top_p=0.9, seed=3),
    "t5x_beams": Beam(num_beams=3),
    "hf_beams": Beam(num_beams=3, style="hf", length_penalty=1.0),
}


@pytest.mark.parametrize("name", METHODS)
def test_an_output_under_a_limit_is_that_of_a_decoder_with_this_limit(
    family, weights, examples, name
) -> None:
    """Rows of many limits in one batch; each as if no row might be longer than it."""
    sources = [" ".join(["3"] * (1 + index % 4)) for index in range(len(examples))]
    asked = [
        dataclasses.replace(one, source=source)
        for one, source in zip(examples, sources, strict=True)
    ]
    rule = OutputLimit(least=3, times=2, plus=1)  # 3, 5, 7 and 9 tokens
    make = functools.partial(
        Decoder, make_model(family), PjitPartitioner(devices=jax.devices()[:1]), 8, 128
    )
    limited = make(MAX_LENGTH, METHODS[name], output_limit=rule)
    found = dict(pair for pairs in limited.decode_texts(weights, asked) for pair in pairs)
    assert len(found) == len(asked)
    lengths = {index: rule.of(len(source.split())) for index, source in enumerate(sources)}
    assert set(lengths.values()) == {3, 5, 7, 9}
    for limit in (3, 5, 7, 9):
        alone = make(limit, METHODS[name])
        for pairs in alone.decode_texts(weights, examples):
            for index, output in pairs:
                if lengths[index] == limit:
                    assert found[index] == output, (index, limit)
    at_limit = [index for index, one in found.items() if one.finish == "length"]
    assert (name == "forced_eos") == (not at_limit)
    assert all(len(found[index].tokens) == lengths[index] for index in at_limit)


def test_no_limit_is_below_the_least_or_above_the_longest(weights, family, examples) -> None:
    asked = [dataclasses.replace(one, source="3 " * 50) for one in examples[:4]]
    rule = OutputLimit(least=3, times=2, plus=1)
    partitioner = PjitPartitioner(devices=jax.devices()[:1])
    with_rule = Decoder(make_model(family), partitioner, 4, 128, MAX_LENGTH, output_limit=rule)
    plain = Decoder(make_model(family), partitioner, 4, 128, MAX_LENGTH)
    long = [list(d.decode_texts(weights, asked)) for d in (with_rule, plain)]
    assert long[0] == long[1]
    without_source = list(with_rule.decode_texts(weights, examples[:4]))
    assert without_source == list(plain.decode_texts(weights, examples[:4]))


def test_a_limit_by_kind_is_that_of_the_examples_category(weights, family, examples) -> None:
    rule = LimitByKind(default=3, long=7, long_kinds=["qa_long"])
    kinds = ["qa_long", "ner", "", "qa_long"]
    asked = [
        dataclasses.replace(one, category=kind)
        for one, kind in zip(examples[:4], kinds, strict=True)
    ]
    make = functools.partial(
        Decoder, make_model(family), PjitPartitioner(devices=jax.devices()[:1]), 4, 128
    )
    limited = make(rule.longest(MAX_LENGTH), output_limit=rule)
    assert limited.max_decode_length == 7 < MAX_LENGTH
    found = dict(pair for pairs in limited.decode_texts(weights, asked) for pair in pairs)
    for limit in (3, 7):
        for pairs in make(limit).decode_texts(weights, asked):
            for index, output in pairs:
                if rule.of(kinds[index]) == limit:
                    assert found[index] == output


@pytest.mark.parametrize(
    "wrong", [{"default": 0}, {"long": 1.5}, {"long_kinds": "qa_long"}, {"long_kinds": [1]}]
)
def test_a_limit_by_kind_that_is_none_is_one_line(wrong) -> None:
    with pytest.raises(ConfigError, match=f"^LimitByKind.{next(iter(wrong))}: .*; allowed: "):
        LimitByKind(**wrong)


@pytest.mark.parametrize("numbers", [(64, 2), (0, 2, 32), (64, -1, 32), (64, 2, float("nan"))])
def test_an_output_limit_that_is_none_is_one_line(numbers) -> None:
    with pytest.raises(ConfigError, match="output_limit"):
        make_limit(numbers)
