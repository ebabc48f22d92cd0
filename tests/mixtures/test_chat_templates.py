"""Chat templates: text and ids as Transformers' apply_chat_template, whatever shape they have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import sentencepiece
import seqio
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import mixtures
from mixtures.chat_templates import ChatText
from mixtures.errors import DataError
from mixtures.joining import prompt_start
from mixtures.prompts import get_prompt
from mixtures.vocabularies import bundled_vocabulary, open_vocabulary, save_tokenizer
from t5x_ext import Model
from t5x_ext.data.features import DecoderOnlyFeatures
from t5x_ext.models.llama import LlamaConfig
from t5x_ext.models.network import Transformer
from t5x_ext.models.parameters import init_params
from t5x_ext.partitioning import PjitPartitioner

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ "
    "'<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)
# BOS in the text, roles that must alternate, an instruction around what users say.
LLAMA_2 = """{% if messages[0]['role'] == 'system' %}
    {% set loop_messages = messages[1:] %}
    {% set system_message = messages[0]['content'] %}
{% else %}
    {% set loop_messages = messages %}
    {% set system_message = false %}
{% endif %}
{% for message in loop_messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% if loop.index0 == 0 and system_message != false %}
        {% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}
    {% else %}
        {% set content = message['content'] %}
    {% endif %}
    {% if message['role'] == 'user' %}
        {{- bos_token + '[INST] ' + content.strip() + ' [/INST]' -}}
    {% elif message['role'] == 'assistant' %}
        {{- ' '  + content.strip() + ' ' + eos_token }}
    {% endif %}
{% endfor -%}"""
# White space control, a date only where there is a clock, a namespace, what the model said marked.
LLAMA_3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- set seen = namespace(system=false) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{%- set seen.system = true %}{%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n\\n' }}
    {%- generation %}{{ message['content'] | trim + '<|im_end|>' }}{% endgeneration %}
{%- endfor %}
{%- if tools is not none %}{{- tools | tojson }}{%- endif %}
{%- if not seen.system %}{{- 'Today: ' + date_string }}{%- endif %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n\\n' }}
{%- endif %}
"""
# Loop controls, filters and JSON.
LISTED = """{%- for message in messages -%}
{%- if message.role == 'system' -%}{%- continue -%}{%- endif -%}
### {{ message.role | title }}: {{ {'text': message.content, 'é<': [1, none]} | tojson }}
{% endfor %}
{%- if add_generation_prompt %}### Assistant:{% endif %}"""
TEMPLATES = {"smollm2": SMOLLM2, "llama_2": LLAMA_2, "llama_3": LLAMA_3, "listed": LISTED}
USER = {"role": "user", "content": "  Say it in French: cheese & <b>wine</b> \n"}
CHATS = {
    "user": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, {"role": "assistant", "content": "fromage\n"}, USER],
}
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> str:
    """A byte-level BPE that begins every text with a BOS: the content of its tokenizer.json."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(Path(__file__).read_text().splitlines(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str()


def write(folder: Path, content: str, template: object = None, **config: object) -> Path:
    """A directory with a tokenizer.json and what its config says."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(content)
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"} | config
    stated["eos_token"] = "</s>"
    stated |= {} if template is None else {"chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated))
    return folder


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(name, byte_level, tmp_path):
    transformers = pytest.importorskip("transformers")
    path = write(tmp_path, byte_level, TEMPLATES[name])
    ours = open_vocabulary(str(path))
    theirs = transformers.AutoTokenizer.from_pretrained(str(path))
    for chat in CHATS.values():
        for asks in (True, False):
            wanted = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=asks)
            text = ours.chat_template.render(chat, add_generation_prompt=asks)
            assert text == wanted
            ids = DecoderOnlyFeatures().prompt_tokens(ours, text).tolist()
            assert ids == theirs.apply_chat_template(
                chat, add_generation_prompt=asks, return_dict=False
            )


def test_a_template_that_begins_texts_itself_gets_no_second_bos(byte_level, tmp_path):
    ours = open_vocabulary(str(write(tmp_path, byte_level, LLAMA_2)))
    text = ours.chat_template.render([USER])
    assert ours.prefix_ids == (1,) and ours.encode(text)[0] == 1
    assert prompt_start(ours, text) == [] and prompt_start(ours, "plain") == [1]


def test_it_is_found_wherever_transformers_keeps_it(byte_level, tmp_path):
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": SMOLLM2}]
    listed = open_vocabulary(str(write(tmp_path / "listed", byte_level, named)))
    file = write(tmp_path / "file", byte_level, "from the config")
    (file / "chat_template.jinja").write_text(SMOLLM2)
    in_file = open_vocabulary(str(file))
    assert listed.chat_template.source == in_file.chat_template.source == SMOLLM2
    assert in_file.chat_template.where.endswith("chat_template.jinja")
    save_tokenizer(in_file, str(tmp_path / "copy"))
    assert open_vocabulary(str(tmp_path / "copy")).chat_template.source == SMOLLM2
    other = open_vocabulary(str(write(tmp_path / "other", byte_level, LLAMA_2)))
    assert len({listed.fingerprint, in_file.fingerprint, other.fingerprint}) == 3


def test_a_sentencepiece_vocabulary_has_one_too(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        input=__file__,
        model_prefix=str(tmp_path / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    config |= {"unk_token": "<unk>", "add_bos_token": True, "chat_template": LLAMA_2}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    ours = open_vocabulary(str(tmp_path))
    theirs = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(str(tmp_path))
    for chat in CHATS.values():
        ids = DecoderOnlyFeatures().prompt_tokens(ours, ours.chat_template.render(chat)).tolist()
        assert ids == theirs.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )


REFUSED = {
    "refuses": (LLAMA_2, "chat template: Roles must alternate user/assistant/user/assistant/..."),
    "is not a template": ("{% for x in %}", "chat template: line 1: Expected an expression"),
    "asks for the day": ("{{ strftime_now('%d') }}", "chat template: 'strftime_now' is undefined"),
    "divides": ("{{ 1 // 0 }}", "chat template: .*zero"),
    "leaves the sandbox": ("{{ ''.__class__.__mro__ }}", "chat template: .*unsafe"),
    "changes what it is given": ("{{ messages.append(1) }}", "chat template: .*unsafe"),
    "never ends": ("{% for x in range(10 ** 9) %}{% endfor %}", "chat template: Range too big"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_fails_is_one_line(name, byte_level, tmp_path):
    template, message = REFUSED[name]
    ours = open_vocabulary(str(write(tmp_path, byte_level, template)))
    with pytest.raises(DataError, match=f"tokenizer_config.json: {message}") as caught:
        ours.chat_template.render([{"role": "assistant", "content": "first"}])
    assert "\n" not in str(caught.value)


def test_without_a_template_or_a_message_it_is_one_line(byte_level, tmp_path):
    bare = open_vocabulary(str(write(tmp_path / "bare", byte_level)))
    for vocabulary in (bare, bundled_vocabulary()):
        with pytest.raises(DataError, match="has no chat template; allowed: one with ") as caught:
            get_prompt("chat").for_vocabulary(vocabulary)
        assert "\n" not in str(caught.value)
    for wrong in (3, [1, 2]):
        refused = f"chat_template: {re.escape(repr(wrong))}; allowed: a Jinja template"
        with pytest.raises(DataError, match=refused):
            open_vocabulary(str(write(tmp_path / str(wrong), byte_level, wrong))).encode("text")
    chatty = open_vocabulary(str(write(tmp_path / "chatty", byte_level, SMOLLM2)))
    for message in ({"role": "user"}, {"role": "user", "content": None}, {"content": "a"}):
        with pytest.raises(DataError, match="chat: message 0: .* None; allowed: a string"):
            chatty.chat_template.render([message])


def test_as_a_prompt_of_a_task_it_is_what_is_trained_on(byte_level, tmp_path):
    vocabulary = open_vocabulary(str(write(tmp_path, byte_level, LLAMA_2)))
    rows = [
        {"instruction": "Say it in French.", "input": "cheese", "output": "fromage"},
        {"instruction": "Name a cheese.", "input": "", "output": "brie"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixtures.register("chats", str(tmp_path / "rows.jsonl"), prompt="chat")
    try:
        mixtures.configure(vocabulary=vocabulary, joined=True)
        found = list(
            seqio.get_mixture_or_task("chats").get_dataset(None, "train").as_numpy_iterator()
        )
    finally:
        mixtures.configure()
    said = {"<s>[INST] Say it in French.\n\ncheese [/INST]", "<s>[INST] Name a cheese. [/INST]"}
    assert {row["inputs_pretokenized"].decode() for row in found} == said
    for row in found:
        text = row["inputs_pretokenized"].decode()
        np.testing.assert_array_equal(row["inputs"], vocabulary.encode(text))
        assert row["targets"].tolist()[-1] == vocabulary.eos_id
        assert vocabulary.decode(row["targets"]) == row["targets_pretokenized"].decode()
    assert isinstance(vocabulary.chat_template.render([USER]), ChatText)


def test_a_model_answers_chats_as_their_ids(byte_level, tmp_path):
    vocabulary = open_vocabulary(str(write(tmp_path / "llama_2", byte_level, LLAMA_2)))
    config = LlamaConfig(
        vocab_size=320,
        emb_dim=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        mlp_dim=32,
    )
    params = init_params(Transformer(config).specs, jax.random.key(0))
    model = Model(config, params, vocabulary, PjitPartitioner())
    ids = vocabulary.encode(vocabulary.chat_template.render([USER]))
    (answer,) = model.generate_tokens([ids], 8)
    assert model.generate([CHATS["user"]], 8) == [vocabulary.decode(answer)]
    # Read by itself, text is a text: it begins with a BOS.
    (outputs,) = model.generate_outputs([CHATS["user"]], 8)
    assert outputs.tokens == answer
    scored = model.score([CHATS["user"], str(vocabulary.chat_template.render([USER]))], ["a", "a"])
    assert scored[0] != scored[1]
    bare = open_vocabulary(str(write(tmp_path / "bare", byte_level)))
    with pytest.raises(DataError, match="has no chat template"):
        Model(config, params, bare, PjitPartitioner()).generate([CHATS["user"]])
