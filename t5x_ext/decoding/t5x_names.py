"""T5X's decoding functions, as its gin files name and set them.

`models.EncoderDecoderModel.decode_fn` is one of these, or a method of this package.
"""

from __future__ import annotations

from t5x_ext.decoding.beam import Beam
from t5x_ext.decoding.methods import Method
from t5x_ext.decoding.sampling import Greedy, Sampling
from t5x_ext.errors import ConfigError
from t5x_ext.models import BaseTransformerModel


def beam_search(
    num_decodes: int = 4, alpha: float = 0.6, max_decode_len: int | None = None
) -> Beam:
    """Beam search with T5X's rules.

    Args:
      num_decodes: beams.
      alpha: exponent of the brevity penalty.
      max_decode_len: tokens of an output at most, EOS included, where the run allows more.
    """
    return Beam(num_beams=num_decodes, length_penalty=alpha, max_length=max_decode_len)


def temperature_sample(
    num_decodes: int = 1,
    temperature: float = 1.0,
    topk: int = 1,
    topp: float = 0.0,
    max_decode_len: int | None = None,
    seed: int = 0,
) -> Method:
    """Sampling with T5X's defaults. Its samples are other ones: T5X's depend on the batch.

    Args:
      num_decodes: samples of each prompt.
      temperature: 0 takes the most probable token.
      topk: only that many most probable tokens; 0 for all.
      topp: only the tokens that reach this probability; 0 for all.
      max_decode_len: tokens of an output at most, EOS included, where the run allows more.
      seed: of the draws; not T5X's.

    Raises:
      ConfigError: both topk and topp are set.
    """
    if topk and topp:
        raise ConfigError(f"temperature_sample: topk={topk} and topp={topp}; allowed: one of them")
    if temperature == 0 or topk == 1:
        return Greedy(max_length=max_decode_len)
    return Sampling(
        temperature=temperature,
        top_k=topk,
        top_p=topp or 1.0,
        num_samples=num_decodes,
        seed=seed,
        max_length=max_decode_len,
    )


def method_of(model: BaseTransformerModel) -> Method:
    """How a model is set to decode: `decode_fn`, with `predict_batch_with_aux.num_decodes`."""
    decode_fn, num_decodes = model.predict_batch_with_aux()
    if isinstance(decode_fn, Method):
        return decode_fn
    if decode_fn is None:
        return Greedy() if num_decodes == 1 else beam_search(num_decodes)
    return decode_fn(num_decodes=num_decodes)
