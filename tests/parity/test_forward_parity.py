"""The same weights in transformers and here: hidden states, logits and greedy tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hf_twins import Twin, make_batch

from t5x_ext.checkpoints.hugging_face import write_hf
from t5x_ext.checkpoints.own_layout import write_params
from t5x_ext.checkpoints.params import open_source
from t5x_ext.decoding.loop import decode_batch
from t5x_ext.decoding.methods import OutputIds
from t5x_ext.models import EncoderDecoderModel, generation, network

torch = pytest.importorskip("torch")


def run_torch(model, batch):
    """Encoder states, decoder states and logits of transformers' model."""
    inputs = torch.from_numpy(batch["encoder_input_tokens"]).long()
    with torch.no_grad():
        out = model(
            input_ids=inputs,
            attention_mask=(inputs > 0).long(),
            decoder_input_ids=torch.from_numpy(batch["decoder_input_tokens"]).long(),
            output_hidden_states=True,
        )
    states = out.encoder_last_hidden_state, out.decoder_hidden_states[-1], out.logits
    return tuple(state.numpy() for state in states)


def run_jax(twin: Twin, batch):
    cfg = twin.source.config

    @jax.jit
    def run(params, batch):
        inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
        input_segments, target_segments = ((x > 0).astype(jnp.int32) for x in (inputs, targets))
        t5 = network.Transformer(cfg).bind(params)
        encoded = t5.encode(inputs, input_segments)
        embedded = t5.token_embedder(batch["decoder_input_tokens"])
        decoded = t5.decoder(embedded, target_segments, encoded, input_segments, None)
        return encoded, decoded, generation.scores(t5, decoded)

    return tuple(np.asarray(state) for state in run(twin.params, batch))


def test_hidden_states_and_logits_are_equal(twin: Twin) -> None:
    batch = make_batch(twin.source.config.vocab_size)
    real_inputs, real_targets = (
        batch[f] > 0 for f in ("encoder_input_tokens", "decoder_target_tokens")
    )
    theirs, ours = run_torch(twin.torch_model, batch), run_jax(twin, batch)
    for left, right, real in zip(
        theirs, ours, (real_inputs, real_targets, real_targets), strict=True
    ):
        difference = np.abs(left - right)[real]
        assert difference.max() < 1e-4
        assert np.median(difference / np.abs(left)[real]) < 1e-5
    assert theirs[2][real_targets].std() > 0.1  # or equal logits would show little


@pytest.mark.slow(but="lm_adapt")
def test_greedy_tokens_are_equal_over_64_steps(twin: Twin) -> None:
    cfg = twin.source.config
    inputs = make_batch(cfg.vocab_size)["encoder_input_tokens"]
    with torch.no_grad():
        theirs = twin.torch_model.generate(
            input_ids=torch.from_numpy(inputs).long(),
            attention_mask=torch.from_numpy(inputs > 0).long(),
            max_new_tokens=64,
            do_sample=False,
            num_beams=1,
            use_cache=False,  # its cache has as many layers as the encoder
        )[:, 1:].numpy()
    generator = EncoderDecoderModel(network.Transformer(cfg)).generator
    ids = OutputIds((1,), cfg.vocab_size)
    decode = jax.jit(lambda params, x, n: decode_batch(generator, params, x, n, 64, ids))
    ours = np.asarray(decode(twin.params, inputs, (inputs > 0).sum(axis=1)))
    np.testing.assert_array_equal(ours[:, : theirs.shape[1]], theirs)
    assert not ours[:, theirs.shape[1] :].any()  # all rows had ended
    assert len(np.unique(ours)) > 10  # not one token over and over


def test_to_ours_and_back_is_bit_exact_in_transformers(twin: Twin, tmp_path) -> None:
    write_params(twin.source, str(tmp_path / "ours"))
    write_hf(open_source(str(tmp_path / "ours")), str(tmp_path / "written"), max_file_bytes=20_000)
    assert len(list((tmp_path / "written").glob("*.safetensors"))) > 1
    written = type(twin.torch_model).from_pretrained(tmp_path / "written").eval()
    # transformers 5 takes every umt5 for tied, as far as scaling the output goes.
    written.config.tie_word_embeddings = twin.torch_model.config.tie_word_embeddings
    before, after = twin.torch_model.state_dict(), written.state_dict()
    assert before.keys() == after.keys()
    for name, weight in before.items():
        assert weight.dtype == after[name].dtype
        assert torch.equal(weight, after[name]), name
    batch = make_batch(twin.source.config.vocab_size)
    for left, right in zip(
        run_torch(twin.torch_model, batch), run_torch(written, batch), strict=True
    ):
        np.testing.assert_array_equal(left, right)
    generation = written.generation_config
    assert generation.decoder_start_token_id == 0
    assert (generation.eos_token_id, generation.pad_token_id) == (1, 0)
