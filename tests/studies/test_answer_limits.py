"""How long the answers of self-specialization's arms may be, by the kind of the question."""

from __future__ import annotations

import pytest

from t5x_ext import gin_utils
from t5x_ext.decoding import LimitByKind
from t5x_ext.gin_strict.binding import bound_to
from t5x_ext.studies import self_specialization_arms


def test_arms_allow_128_tokens_and_256_for_long_kinds() -> None:
    limits = LimitByKind()
    for arm in self_specialization_arms(
        "harbour", ["harbour_log"], seeds=20, human=[5], output_limit=limits
    ):
        limit = arm.output_limit
        assert isinstance(limit, LimitByKind)
        assert [limit.of(kind) for kind in ("qa_long", "summarization")] == [256, 256]
        assert [limit.of(kind) for kind in ("ner", "qa_yesno", "")] == [128, 128, 128]
        assert [arm.decoding_settings.longest_output(most) for most in (512, 96)] == [256, 96]
        assert hash(arm.decoding_settings)
        assert arm.describe()["output_limit"] == {
            "type": "LimitByKind",
            "default": 128,
            "long": 256,
            "long_kinds": ("qa_long", "summarization"),
        }


def test_an_arm_without_a_limit_is_described_as_it_was() -> None:
    """By default: cells of studies from before there were limits keep their keys."""
    arms = self_specialization_arms("harbour", ["harbour_log"])
    assert arms[0].decoding_settings.longest_output(512) == 512
    assert "output_limit" not in arms[0].describe()


@pytest.mark.parametrize(("name", "limit"), [("paper", LimitByKind()), ("tiny", None)])
def test_study_files_set_it(name: str, limit: LimitByKind | None) -> None:
    from t5x_ext.study import study

    macros = {"MODEL_DIR": "'runs/s'", "VOCABULARY_PATH": "'none'", "MPT_PATH": "'none'"}
    if name == "tiny":
        macros = {"MODEL_DIR": "'runs/s'"}
    bindings = [f"{macro} = {value}" for macro, value in macros.items()]
    file = f"studies/self_specialization_{name}.gin"
    gin_utils.parse([file], bindings, command=study)
    assert {arm.output_limit for arm in bound_to(study)["arms"]} == {limit}
