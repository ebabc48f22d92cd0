"""Prompts that begin alike: what they share is read once, and no output is another for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shared_outputs import EOS, make, merged, with_adapters

from t5x_ext import Model
from t5x_ext.decoding import Beam, Contrastive, Greedy, Method, Sampling
from t5x_ext.decoding.batches import Batching
from t5x_ext.decoding.decoder import Decoder
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.decoding.requests import Request
from t5x_ext.decoding.shared_prefixes import Sharing, group, order_by_group
from t5x_ext.decoding.stages import Finished
from t5x_ext.partitioning import PjitPartitioner

RNG = np.random.default_rng(0)
BUCKETS = (32, 64, 96, 128)


def tokens(length: int) -> np.ndarray:
    return RNG.integers(2, 64, length).astype(np.int32)


def task(prefix_length: int, rests: list[int]) -> list[np.ndarray]:
    prefix = tokens(prefix_length)
    return [np.concatenate([prefix, tokens(length)]) for length in rests]


def request(number: int, *prompts: np.ndarray, adapters: tuple[int, ...] = ()) -> Request:
    weights = tuple(np.log(np.full(len(prompts), 1 / len(prompts))).tolist())
    return Request(prompts, number, weights, adapters)


class TestGroups:
    def test_prompts_of_a_task_share_what_all_of_them_begin_with(self) -> None:
        tasks = [task(60, [3, 40, 9, 20, 5]), task(20, [4, 8, 1, 30]), task(0, [7, 50])]
        prompts = [prompt for one in tasks for prompt in one]
        shared, groups = group(prompts, [0] * len(prompts))
        assert len(set(groups[:5])) == len(set(groups[5:9])) == 1
        assert groups[0] != groups[5]
        # The prompt of 21 tokens keeps one of its own.
        assert shared.tolist()[:9] == [60] * 5 + [20] * 4

    def test_a_preamble_of_all_does_not_hide_what_tasks_share(self) -> None:
        preamble = tokens(10)
        tasks = [task(60, [3, 40, 9, 20]), task(5, [4, 8, 6, 30])]
        prompts = [np.concatenate([preamble, prompt]) for one in tasks for prompt in one]
        shared, groups = group(prompts, [0] * 8)
        assert set(shared[:4]) == {70} and set(shared[4:]) == {15}
        assert len(set(groups)) == 2

    def test_kinds_share_nothing(self) -> None:
        prompts = task(40, [5] * 8)
        shared, groups = group(prompts, [0] * 4 + [1] * 4)
        assert len(set(groups[:4])) == len(set(groups[4:])) == 1 and groups[0] != groups[4]
        assert set(shared) == {40}

    @pytest.mark.parametrize("prompts", [[], [tokens(5)], [tokens(3)] * 6, [tokens(1)] * 5])
    def test_one_token_is_left_of_each(self, prompts: list[np.ndarray]) -> None:
        shared, groups = group(prompts, [0] * len(prompts))
        expected = len(prompts[0]) - 1 if len(prompts) > 1 else 0
        assert (shared == expected).all() and ((groups == -1) == (shared == 0)).all()

    def test_the_order_begins_with_the_longest(self) -> None:
        groups, lengths = np.array([0, 1, 0, 1, -1]), np.array([5, 9, 7, 2, 8])
        assert order_by_group(groups, lengths).tolist() == [1, 3, 4, 2, 0]


class TestBatches:
    def batches(self, *sets: list[np.ndarray], least_saved: int = 0) -> list:
        sharing = Sharing(PjitPartitioner(devices=jax.devices()[:1]), least_saved)
        asked = [[request(n, prompt) for n, prompt in enumerate(prompts)] for prompts in sets]
        return list(Batching(4, BUCKETS, sharing=sharing).side_by_side(asked))

    def whole(self, batch, row: int) -> list[int]:
        """The prompt of a row, put together again."""
        rest = batch.prompts[0, row, : batch.lengths[0, row]].tolist()
        if batch.prefixes is None:
            return rest
        one = batch.prefixes.which[0, row]
        prefix = batch.prefixes.tokens[0, one, : batch.prefixes.lengths[0, one]]
        return prefix.tolist() + rest

    def test_prefix_and_rest_are_the_prompt(self) -> None:
        first, second = task(90, [3, 20, 9, 5, 8, 2]), task(60, [4, 8, 1, 12, 9, 7])
        prompts = [*first, *second, tokens(60), tokens(3)]
        batches = self.batches(prompts)
        assert [batch.prefixes is not None for batch in batches] == [True, True, True, False]
        assert batches[1].prefixes.tokens.shape == (
            1,
            2,
            96,
        )  # the end of one, the start of another
        seen = []
        for batch in batches:
            for row, place in enumerate(batch.places[0]):
                if place >= 0:
                    assert self.whole(batch, row) == prompts[place].tolist()
                    assert batch.lengths[0, row] > 0 and batch.length >= len(prompts[place])
                    seen.append(place)
                else:
                    assert batch.lengths[0, row] == 0
        assert sorted(seen) == list(range(len(prompts)))

    def test_prompts_are_whole_where_compiling_costs_more_than_is_saved(self) -> None:
        prompts = task(100, [16, 9, 3, 12])  # 4 * 128 positions, 128 + 4 * 16 with a prefix
        assert self.batches(prompts, least_saved=319)[0].prefixes is not None
        assert self.batches(prompts, least_saved=320)[0].prefixes is None
        # Two sets are read by one program, as are two batches.
        assert self.batches(prompts, prompts, least_saved=639)[0].prefixes is not None
        assert self.batches(prompts, prompts, least_saved=640)[0].prefixes is None
        twice = self.batches([*prompts, *prompts], least_saved=639)
        assert [batch.prefixes is not None for batch in twice] == [True, True]

    def test_what_compiling_costs_depends_on_the_model_and_the_mesh(self) -> None:
        one, four = (PjitPartitioner(devices=jax.devices()[:n]) for n in (1, 4))
        assert Sharing.where_worth(one, 10**6).least_saved == 250_000
        assert Sharing.where_worth(four, 10**8).least_saved == 10_000

    def test_nothing_to_decode_is_no_batch(self) -> None:
        assert self.batches([]) == self.batches([], []) == []

    def test_fewer_positions_are_read(self) -> None:
        (batch,) = self.batches(task(100, [16, 9, 3, 12]))
        assert batch.prefixes.tokens.shape == (1, 1, 128) and batch.prompts.shape == (1, 4, 16)

    def test_no_batch_is_longer_than_the_one_before(self) -> None:
        """Though the second task's longest prompt comes after the first task's shortest."""
        first, second = task(60, [36, *[3] * 15]), task(60, [35, *[3] * 15])
        in_turn = [one for pair in zip(first, second, strict=True) for one in pair]
        batches = self.batches(in_turn)
        lengths = [batch.length for batch in batches]
        assert all(batch.prefixes is not None for batch in batches)
        assert lengths == sorted(lengths, reverse=True) == [96] * 2 + [64] * 6

    @pytest.mark.parametrize("shared", [0, 4])
    def test_what_would_save_little_is_left_in_the_order_of_lengths(self, shared: int) -> None:
        prompts = task(shared, [100, 40, 70, 90, 30, 60, 50, 80])
        batches = self.batches(prompts)
        assert all(batch.prefixes is None for batch in batches)
        assert batches[0].places.tolist() == [[0, 3, 7, 2]]


def outputs(
    model: Model,
    groups: list[list[np.ndarray]],
    method: Method,
    *,
    shares: bool,
    adapters: list[tuple[int, ...]] | None = None,
    amateur: Model | None = None,
    first_stage: int | None = None,
) -> tuple[list[list[int]], list[np.ndarray]]:
    """Tokens and log-probabilities of each group of contexts, read with prefixes shared or not."""
    decoder = Decoder(
        model._described,
        model.partitioner,
        batch_size=8,
        max_input_length=128,
        max_decode_length=12,
        method=method,
        first_stage=first_stage,
        ids=OutputIds(EOS, 64),
        num_contexts=max(map(len, groups)),
        amateur=None if amateur is None else amateur._described,
        keep_log_probs=method.is_rowwise,
        share_prefixes=shares,
    )
    sides = adapters or [()] * len(groups)
    asked = [request(n, *group, adapters=sides[n]) for n, group in enumerate(groups)]
    cut = [batch.prefixes is not None for batch in decoder._batching.side_by_side([asked])]
    assert any(cut) == shares
    params = model.params
    if amateur is not None:
        params = {"expert": params, "amateur": amateur.params}
    found, log_probs = {}, {}
    for finished in decoder.decode_requests(params, asked):
        for index, place in enumerate(finished.places.tolist()):
            found[place] = finished.outputs[index].tolist()
            if finished.log_probs is not None:
                log_probs[place] = finished.log_probs[index]
    return [found[n] for n in range(len(asked))], [log_probs[n] for n in sorted(log_probs)]


def gather(batches: Iterator[Finished]) -> list[list[int]]:
    """Tokens of all outputs, in the order of their requests."""
    found = {}
    for finished in batches:
        found |= dict(zip(finished.places.tolist(), finished.outputs.tolist(), strict=True))
    return [found[n] for n in range(len(found))]


def check(model: Model, groups: list[list[np.ndarray]], method: Method, **settings) -> None:
    shared = outputs(model, groups, method, shares=True, **settings)
    whole = outputs(model, groups, method, shares=False, **settings)
    assert shared[0] == whole[0]
    assert len(whole[1]) == (len(groups) if method.is_rowwise else 0)
    for rows, one, other in zip(whole[0], shared[1], whole[1], strict=False):
        is_token = np.array(rows) > 0  # what comes after an end depends on the batch
        np.testing.assert_allclose(one[is_token], other[is_token], atol=2e-5)
    assert len({tuple(map(tuple, one)) for one in whole[0]}) > len(groups) // 2


PROMPTS = [
    *task(70, [3, 20, 9, 5, 8, 2, 30]),
    *task(50, [4, 8, 1, 30, 12]),
    *task(100, [1, 1, 9, 14, 2, 7]),
    tokens(60),
    tokens(3),
]
METHODS = {
    "greedy": Greedy(),
    "sampling": Sampling(temperature=1.2, num_samples=2),
    "beam": Beam(num_beams=3, style="hf"),
}


class TestOutputs:
    @pytest.mark.slow(but="mpt")
    @pytest.mark.parametrize("family", ["llama", "mpt", "falcon"])
    def test_of_every_family(self, family: str) -> None:
        """Positions by rotation and by bias, one key head for all and one for two."""
        check(make(family), [[one] for one in PROMPTS], Greedy(), first_stage=4)

    @pytest.mark.slow(but="beam")
    @pytest.mark.parametrize("method", ["sampling", "beam"])
    def test_of_every_method(self, method: str) -> None:
        check(make("llama"), [[one] for one in PROMPTS], METHODS[method])

    def test_of_several_adapters(self) -> None:
        """A prefix is read once for each adapter."""
        groups = [[one] for one in PROMPTS[:7] * 3]
        adapters = [(number // 7,) for number in range(21)]
        check(with_adapters("llama"), groups, Greedy(), adapters=adapters)

    def test_of_contexts_that_share_an_output(self) -> None:
        groups = [PROMPTS[start : start + 1 + start // 3 % 3] for start in range(0, 18, 3)]
        check(make("mpt"), groups, Greedy())

    @pytest.mark.slow
    def test_of_one_model_against_itself(self) -> None:
        groups, method = [[one] for one in PROMPTS], Contrastive(alpha=0.3)
        adapters = [(1, 2)] * len(PROMPTS)
        check(with_adapters("llama"), groups, method, adapters=adapters)

    @pytest.mark.slow
    def test_of_two_models(self) -> None:
        expert, amateur = (merged(with_adapters("llama"), number) for number in (1, 2))
        check(expert, [[one] for one in PROMPTS], Contrastive(alpha=0.3), amateur=amateur)

    @pytest.mark.slow
    @pytest.mark.parametrize("family", ["llama", "falcon"])
    def test_on_a_mesh(self, family: str) -> None:
        """Rows over two devices and heads over two; there are as many prefixes as rows divide."""
        mesh = PjitPartitioner(devices=jax.devices()[:4], data=2, model=2)
        groups = [[one] for one in PROMPTS]
        check(make(family, mesh), groups, Greedy())
        split = outputs(make(family, mesh), groups, Greedy(), shares=True)
        assert split[0] == outputs(make(family), groups, Greedy(), shares=False)[0]

    @pytest.mark.slow
    @pytest.mark.parametrize("axes", [{}, dict(expert=2, data=2), dict(expert=2, model=2)])
    def test_of_models_side_by_side(self, axes: dict[str, int]) -> None:
        """Each model has its own prefixes; one set has none to read, and one is empty."""
        devices = jax.devices()[: 4 if axes else 1]
        models = [merged(with_adapters("llama"), number) for number in (0, 1, 2, 1)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(one.params for one in models))
        sets = [PROMPTS, PROMPTS[7:], [tokens(5)], []]
        asked = [[request(n, one) for n, one in enumerate(prompts)] for prompts in sets]
        decoder = Decoder(
            models[0]._described,
            PjitPartitioner(devices=devices, **axes),
            batch_size=8,
            max_input_length=128,
            max_decode_length=12,
            ids=OutputIds(EOS, 64),
            share_prefixes=True,
        )
        found = gather(decoder._decode(decoder.programs_together, stacked, asked))
        one_device, expected = models[0].partitioner, []
        for model, requests in zip(models, asked, strict=True):
            alone = dataclasses.replace(decoder, partitioner=one_device, share_prefixes=False)
            expected += gather(alone.decode_requests(model.params, requests)) if requests else []
        assert found == expected

    def test_not_where_a_prompt_sees_itself_whole_or_a_kernel_is_insisted_on(self) -> None:
        model = make("llama")._described
        generator = model.generator
        assert generator.shares_prefixes
        assert not dataclasses.replace(generator, bidirectional_prompt=True).shares_prefixes
        config = model.module.config.replace(attention="flash")
        insisted = dataclasses.replace(generator, network=model.module.replace(config))
        assert not insisted.shares_prefixes
        assert not make("t5")._described.generator.shares_prefixes
