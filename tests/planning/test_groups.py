"""Which models of a study go together."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from t5x_ext.planning.groups import make_groups

MODELS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), max_size=40)


@given(MODELS, st.integers(1, 5))
def test_no_other_groups_take_fewer_steps(models: list[tuple[str, int]], experts: int) -> None:
    groups = list(make_groups(models, experts, lambda model: model[1], lambda model: model[0]))
    assert sorted(model for group in groups for model in group) == sorted(models)
    steps_taken: dict[tuple[str, int], int] = defaultdict(int)
    for group in groups:
        programs, steps = zip(*group, strict=True)
        assert len(set(programs)) == 1 and len(group) <= experts
        assert len(group) == 1 or max(steps) < 2 * min(steps)
        steps_taken[programs[0], max(steps).bit_length()] += max(steps)
    for (program, bits), taken in steps_taken.items():
        own = [steps for name, steps in models if name == program and steps.bit_length() == bits]
        assert taken == sum(sorted(own, reverse=True)[::experts])


def test_models_of_equal_steps_do_not_wait_for_others() -> None:
    models = iter([3, 2, 3, 2, 2])
    groups = make_groups(models, 2, lambda steps: steps, lambda steps: None)
    assert next(groups) == [3, 3]
    assert list(models) == [2, 2]
