"""Training and evaluation batches: contents, order, position, hosts."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from batch_examples import (
    FEATURES,
    LENGTHS,
    assert_same,
    make_batches,
    make_example,
    make_examples,
    share_of,
    take,
)

from t5x_ext.data.batching import TrainBatches
from t5x_ext.data.epochs import share_out
from t5x_ext.data.packing import lay_out
from t5x_ext.data.tables import in_memory
from t5x_ext.errors import ConfigError


def test_packed_arrays_of_two_examples_with_token_zero_and_an_empty_side():
    # SeqIO's packing shifts the segment ids after empty inputs and cuts a sequence at token 0.
    inputs = [np.array(tokens, np.int32) for tokens in ([4, 0, 9, 1], [], [7, 1])]
    targets = [np.array(tokens, np.int32) for tokens in ([5, 1], [0, 6, 1], [8, 1])]
    lengths = [np.array([len(tokens) for tokens in side]) for side in (inputs, targets)]
    sides = FEATURES.sides(*lengths)
    layout = lay_out(np.zeros(3, np.int64), *sides)
    batch = FEATURES.build(inputs, targets, layout, {"inputs": 8, "targets": 9})
    expected = {
        "encoder_input_tokens": [4, 0, 9, 1, 0, 7, 1, 0],  # the empty one has its own place
        "encoder_segment_ids": [1, 1, 1, 1, 2, 3, 3, 0],
        "encoder_positions": [0, 1, 2, 3, 0, 0, 1, 0],
        "decoder_target_tokens": [5, 1, 0, 6, 1, 8, 1, 0, 0],
        "decoder_input_tokens": [0, 5, 0, 0, 6, 0, 8, 0, 0],
        "decoder_loss_weights": [1, 1, 1, 1, 1, 1, 1, 0, 0],
        "decoder_segment_ids": [1, 1, 2, 2, 2, 3, 3, 0, 0],
        "decoder_positions": [0, 1, 0, 1, 2, 0, 1, 0, 0],
    }
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert batch[name].tolist() == [values], name
        assert batch[name].dtype == (np.float32 if "weights" in name else np.int32)


@pytest.mark.parametrize("pack", [False, True, "batch"])
def test_an_epoch_holds_every_token_of_every_example_once(pack):
    examples = make_examples(37)
    batches = make_batches(examples, pack=pack)
    epoch = take(batches, batches.steps_per_epoch(0))
    assert sorted(itertools.chain(*(info.ids for _, info in epoch))) == sorted(
        example.id for example in examples
    )
    tokens, weights = Counter(), 0.0
    for batch, info in epoch:
        used = batch["encoder_input_tokens"][batch["encoder_input_tokens"] != 0]
        tokens.update(used.tolist())
        weights += batch["decoder_loss_weights"].sum()
        positions = batch["encoder_input_tokens"].size + batch["decoder_target_tokens"].size
        targets = batch["decoder_loss_weights"].sum()
        assert info.num_tokens == len(used) + targets
        assert info.padding_share == pytest.approx(1 - info.num_tokens / positions)
    assert tokens == Counter(token for ex in examples for token in ex.inputs.tolist())
    assert weights == sum(len(ex.targets[0]) for ex in examples)


def test_packed_segments_are_whole_examples():
    examples = {example.inputs[0]: example for example in make_examples(30)}
    for batch, _ in take(make_batches(list(examples.values())), 5):
        for row in range(4):
            encoder, decoder = batch["encoder_segment_ids"][row], batch["decoder_segment_ids"][row]
            for segment in range(1, encoder.max() + 1):
                inputs = batch["encoder_input_tokens"][row][encoder == segment]
                example = examples[inputs[0]]
                np.testing.assert_array_equal(inputs, example.inputs)
                np.testing.assert_array_equal(
                    batch["decoder_target_tokens"][row][decoder == segment], example.targets[0]
                )


def test_the_last_batch_is_filled_with_empty_rows():
    batches = make_batches(make_examples(5), pack=False)
    assert batches.steps_per_epoch() == 2
    (_, _), (batch, info) = take(batches, 2)
    assert len(info.ids) == 1
    assert batch["decoder_loss_weights"].sum(axis=1).tolist()[1:] == [0, 0, 0]
    assert not batch["encoder_input_tokens"][1:].any()


def test_epochs_differ_and_a_seed_fixes_them():
    examples = make_examples(20)
    batches = make_batches(examples, seed=1)
    first = [batches.make(0, step) for step in range(batches.steps_per_epoch(0))]
    again = make_batches(examples, seed=1)
    assert_same(first, take(again, len(first)))
    orders = {
        (seed, epoch): tuple(make_batches(examples, 20, False, seed).make(epoch, 0)[1].ids)
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(set(orders.values())) == 4


@pytest.mark.parametrize("pack", [True, False])
def test_without_shuffling_data_stay_in_order(pack):
    examples = make_examples(40)
    batches = make_batches(examples, pack=pack, shuffle=False)
    for epoch in (0, 1):
        steps = range(batches.steps_per_epoch(epoch))
        ids = [name for step in steps for name in batches.make(epoch, step)[1].ids]
        assert sorted(ids) == sorted(example.id for example in examples)
        if not pack:
            assert ids == [example.id for example in examples]
    with pytest.raises(ConfigError, match="seed is now 0, the checkpoint has 0, not shuffled"):
        make_batches(examples, pack=pack).restore(batches.state())


def test_unpacked_rows_are_as_long_as_the_smallest_bucket():
    examples = [make_example("a", [3] * 33, [5, 1]), make_example("b", [3, 1], [5, 1])]
    batch, _ = next(make_batches(examples, batch_size=2, pack=False))
    assert batch["encoder_input_tokens"].shape == (2, 64)
    assert batch["decoder_target_tokens"].shape == (2, 16)
    assert batch["encoder_segment_ids"].sum(axis=1).tolist() in ([33, 2], [2, 33])
    buckets = {"inputs": (8, 40, 64), "targets": (2, 4)}
    batch, _ = next(make_batches(examples, batch_size=2, pack=False, length_buckets=buckets))
    assert batch["encoder_input_tokens"].shape == (2, 40)
    assert batch["decoder_target_tokens"].shape == (2, 2)


def test_each_epoch_draws_a_reference():
    example = make_example("x", [3, 1], [10, 1], [11, 1], [12, 1])
    batches = make_batches([example], batch_size=1, pack=False)
    drawn = [batches.make(epoch, 0)[0]["decoder_target_tokens"][0, 0] for epoch in range(40)]
    assert set(drawn) == {10, 11, 12}
    # The draw hangs on the example alone, not on what else is in the data.
    more = make_batches([*make_examples(9), example], batch_size=10, pack=False)
    for epoch in range(10):
        batch, info = more.make(epoch, 0)
        row = info.ids.index("x")
        assert batch["decoder_target_tokens"][row, 0] == drawn[epoch]


@pytest.mark.parametrize("pack", [False, True])
def test_a_restored_position_continues_exactly(pack):
    examples = make_examples(23, num_targets=3)
    batches = make_batches(examples, pack=pack)
    whole = take(batches, 20)
    for consumed in (0, 1, 6, 13):
        stopped = make_batches(examples, pack=pack)
        take(stopped, consumed)
        state = json.loads(json.dumps(stopped.state()))
        resumed = make_batches(examples, pack=pack)
        resumed.restore(state)
        assert_same(whole[consumed:], take(resumed, 20 - consumed))


def test_hosts_share_each_batch_and_their_number_may_change():
    examples = make_examples(40)
    whole = take(make_batches(examples, batch_size=8), 6)
    second_half = make_batches(examples, batch_size=8, host_rows=lambda rows: (4, 8))
    take(second_half, 3)
    for num_hosts in (1, 2, 4):
        hosts = [
            make_batches(examples, batch_size=8, host_rows=share_of(host, num_hosts))
            for host in range(num_hosts)
        ]
        for host in hosts:
            host.restore(second_half.state())
        for batch, info in whole[3:]:
            parts = [next(host) for host in hosts]
            for name in batch:
                joined = np.concatenate([part[name] for part, _ in parts])
                np.testing.assert_array_equal(joined, batch[name], err_msg=name)
            assert all(part_info == info for _, part_info in parts)


def test_a_host_without_examples_in_the_last_batch_takes_as_many_steps():
    examples = make_examples(9)
    hosts = [
        make_batches(examples, batch_size=8, pack=False, host_rows=share_of(host, 2))
        for host in range(2)
    ]
    seen = []
    for _ in range(2 * hosts[0].steps_per_epoch()):
        parts = [next(host) for host in hosts]
        assert parts[0][1] == parts[1][1]
        seen += parts[0][1].ids
        if parts[0][1].step_in_epoch == 1:
            assert not parts[1][0]["decoder_loss_weights"].any()
    assert hosts[0].steps_per_epoch() == hosts[1].steps_per_epoch() == 2
    assert sorted(seen) == sorted(2 * [example.id for example in examples])


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("data", lambda: make_batches(make_examples(11, seed=1))),
        ("data", lambda: make_batches(make_examples(12))),
        ("seed", lambda: make_batches(make_examples(11), seed=1)),
        ("batch_size", lambda: make_batches(make_examples(11), batch_size=8)),
        ("pack", lambda: make_batches(make_examples(11), pack=False)),
    ],
)
def test_a_position_in_other_data_is_refused(field, other):
    state = make_batches(make_examples(11)).state()
    with pytest.raises(ConfigError, match=f"^data position: {field} is now [^\n]*$"):
        other().restore(state)


def test_restoring_after_batches_were_made_ahead():
    batches = make_batches(make_examples(60))
    start = batches.state()
    first = take(batches, 3)
    batches.restore(start)
    assert_same(first, take(batches, 3))
    batches.close()
    assert batches.state()["step_in_epoch"] == 3
    assert next(batches)[1].step_in_epoch == 3


def test_steps_for_epochs_is_the_sum_over_epochs():
    for pack in (False, True):
        batches = make_batches(make_examples(50), pack=pack)
        steps = batches.steps_for_epochs(3)
        infos = [info for _, info in take(batches, steps + 1)]
        assert infos[-2].epoch == 2
        assert (infos[-1].epoch, infos[-1].step_in_epoch) == (3, 0)


def test_mixture_rates_decide_the_shares_and_members_go_on_where_they_stopped():
    members = [
        in_memory("a", make_examples(30, "a"), 1.0),
        in_memory("b", make_examples(10, "b"), 3.0),
    ]
    batches = TrainBatches(members, 40, LENGTHS, pack=False, seed=0)
    seen = Counter()
    for epoch in range(3):
        ids = batches.make(epoch, 0)[1].ids
        counts = Counter(name[0] for name in ids)
        assert counts == {"a": 10, "b": 30}
        seen.update(ids)
    assert all(seen[f"a{index}"] == 1 for index in range(30))
    assert all(seen[f"b{index}"] == 9 for index in range(10))


def test_rates_in_proportion_to_sizes_mean_every_example_once():
    members = [in_memory("a", make_examples(7, "a"), 7), in_memory("b", make_examples(13, "b"), 13)]
    ids = TrainBatches(members, 20, LENGTHS, pack=False, seed=0).make(5, 0)[1].ids
    assert len(set(ids)) == 20


def test_share_out_uses_the_largest_remainders():
    assert share_out(10, [1, 1, 1]) == [4, 3, 3]
    assert share_out(10, [0.5, 0.26, 0.24]) == [5, 3, 2]
    assert share_out(5, [1, 0]) == [5, 0]


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("training data: no examples", lambda: make_batches([])),
        ("example 'x' of task has no target", lambda: make_batches([make_example("x", [1])])),
        (
            "inputs: an example of 65 tokens; allowed: 64",
            lambda: make_batches([make_example("x", [3] * 65, [1])]),
        ),
    ],
)
def test_mistakes_get_one_clear_line(message, make):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_batching_needs_no_tensorflow():
    code = (
        "import sys, t5x_ext.data.batching\n"
        "print([m for m in ('tensorflow', 'seqio', 'jax') if m in sys.modules])"
    )
    repo = Path(__file__).resolve().parents[2]
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=repo, text=True)
    assert printed.strip() == "[]"
