"""A study: a grid of small training runs, each scored on the tasks it was tuned for.

arms.py            what an arm is; those of the first system's paper by name
writing.py         the arms of the second system
self_specialization.py  the arms of the third system, and the data that its models write
recipes.py         how a model is tuned, and where it starts
cells.py, keys.py  the grid as cells, each with the hash of what determines it
sizes.py           how much work it is, for a plan
store.py           the study's directory: what is finished, what is being worked on
task_data.py       the examples of the cells; named_data.py: of sets with their own names
generated_data.py  data that models of the study write, and its keys; generation.py has it written
initial_models.py  the parameters that cells start from, made first where they have to be
tuning.py          models of one shape tuned together, with shared compiled steps
runner.py          group after group of cells: tuned, decoded, scored, written
"""

from t5x_ext.studies.arms import Arm, paper_arms
from t5x_ext.studies.generated_data import GeneratedData
from t5x_ext.studies.recipes import InitialModel, Recipe
from t5x_ext.studies.self_specialization import (
    self_specialization_arms,
    self_specialization_data,
)
from t5x_ext.studies.writing import writing_arms

__all__ = [
    "Arm",
    "GeneratedData",
    "InitialModel",
    "Recipe",
    "paper_arms",
    "self_specialization_arms",
    "self_specialization_data",
    "writing_arms",
]
