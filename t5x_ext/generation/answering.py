"""What a model is asked when it answers a task, and what of that fits into its context."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from mixtures.specialization.records import Seed
from mixtures.specialization_prompts import response_prompt
from mixtures.truncation import cut_middle, largest_fitting
from t5x_ext import bounds
from t5x_ext.errors import ConfigError
from t5x_ext.generation.journal import Record
from t5x_ext.generation.requests import CompletionRequest, TextModel, single
from t5x_ext.retrieval import Hit, log_weights
from t5x_ext.retrieval.weights import check_weighting

# Small models answer, write "Output:" and answer again, to the last token that they may.
STOPS = ("\n###", "\nInstruction:", "\n\nInput:", "\nOutput:", "\nResponse:")


@dataclasses.dataclass(frozen=True)
class ResponseSettings:
    """How tasks are answered, and which answers are trained on.

    Attributes:
        domain: as of `InstructionSettings`.
        round: likewise.
        seed: of the draws, where the method draws.
        num_passages: the best passages of the corpus, each in its own prompt; 0 for none.
        weighting: of the passages; see `retrieval.log_weights`.
        temperature: of the weighting 'softmax'.
        max_new_tokens: of an answer.
        stops: texts before which an answer ends.
        keep_cut: keep answers that ended for their length.
        include_seeds: put the seeds before the rows.
    """

    domain: str
    round: int = 1
    seed: int = 0
    num_passages: int = 5
    weighting: str = "proportional"
    temperature: float = 1.0
    max_new_tokens: int = 512
    stops: Sequence[str] = STOPS
    keep_cut: bool = False
    include_seeds: bool = False

    def __post_init__(self) -> None:
        name = "ResponseSettings"
        bounds.check_int(f"{name}.round", self.round, 1)
        bounds.check_seed(f"{name}.seed", self.seed)
        bounds.check_int(f"{name}.num_passages", self.num_passages, 0, 1000)
        bounds.check_int(f"{name}.max_new_tokens", self.max_new_tokens, 1, bounds.MAX_TOKENS)
        object.__setattr__(self, "stops", bounds.to_texts(f"{name}.stops", self.stops))
        check_weighting(self.weighting, self.temperature)


def check_room(settings: ResponseSettings, text_model: TextModel, seeds: Iterable[Seed]) -> None:
    """Refuses a limit of answers that leaves no room for tasks after the example of the seeds.

    Raises:
        ConfigError: the longest instruction of a seed does not fit.
    """
    prompts = (response_prompt(settings.domain, seed.instruction, "", None) for seed in seeds)
    longest = max(map(text_model.count_tokens, prompts), default=0)
    room = text_model.max_tokens - longest
    if settings.max_new_tokens > room:
        raise ConfigError(
            f"ResponseSettings.max_new_tokens: {settings.max_new_tokens}; allowed: at most "
            f"{max(0, room)}, what the model's context of {text_model.max_tokens} leaves beside "
            f"the longest instruction of a seed ({longest} tokens with the prompt's)"
        )


def fit_prompt(
    settings: ResponseSettings, text_model: TextModel, task: Record, passage: str | None
) -> tuple[str, bool] | None:
    """The prompt of a task in what the answer leaves of the model's context.

    A prompt that is too long loses words from the end of its passage, then the middle of its input;
    never the instruction or the words that ask for the response.

    Returns:
        The prompt, and whether it lost anything; None if it does not even fit without both.
    """
    limit = text_model.max_tokens - settings.max_new_tokens

    def render(text: str, words: str | None) -> str:
        return response_prompt(settings.domain, task["instruction"], text, words)

    def fits(prompt: str) -> bool:
        return text_model.count_tokens(prompt) <= limit

    text = task["input"]
    whole = render(text, passage)
    if fits(whole):
        return whole, False
    if passage is not None and fits(render(text, None)):
        words = passage.split()
        number = largest_fitting(len(words), lambda n: fits(render(text, " ".join(words[:n]))))
        return render(text, " ".join(words[:number]) if number else None), True
    number = largest_fitting(len(text), lambda n: fits(render(cut_middle(text, n), None)), lowest=1)
    return None if number is None else (render(cut_middle(text, number), None), True)


def response_request(
    settings: ResponseSettings,
    text_model: TextModel,
    task: Record,
    hits: Sequence[Hit],
    number: int,
) -> tuple[CompletionRequest, bool] | None:
    """What is asked for one task, and whether a prompt was cut to fit; None if it cannot fit.

    Args:
        settings: how to ask.
        text_model: the model.
        task: a record of instructions.jsonl.
        hits: the passages found; without any there is one prompt without a passage.
        number: of the request.
    """
    passages: Sequence[str | None] = [hit.passage.whole for hit in hits] or (None,)
    fitted = [fit_prompt(settings, text_model, task, passage) for passage in passages]
    prompts = [each for each in fitted if each is not None]
    if len(prompts) < len(fitted):
        return None
    contexts, logs = single(prompts[0][0])
    if hits:
        contexts = tuple(prompt for prompt, _ in prompts)
        scores = [hit.score for hit in hits]
        logs = tuple(log_weights(scores, settings.weighting, settings.temperature).tolist())
    limit, stops = settings.max_new_tokens, tuple(settings.stops)
    request = CompletionRequest(contexts, logs, settings.seed, number, limit, stops)
    return request, any(cut for _, cut in prompts)
