"""A study: a grid of small training runs, each scored on the tasks it was tuned for.

arms.py            the arms of the paper, by name
recipes.py         how a model is tuned, and where it starts
cells.py, keys.py  the grid as cells, each with the hash of what determines it
sizes.py           how much work it is, for a plan
store.py           the study's directory: what is finished, what is being worked on
task_data.py       the examples of the cells
initial_models.py  the parameters that cells start from, made first where they have to be
tuning.py          models of one shape tuned together, with shared compiled steps
runner.py          group after group of cells: tuned, decoded, scored, written
"""

from t5x_ext.studies.arms import Arm, paper_arms
from t5x_ext.studies.recipes import InitialModel, Recipe

__all__ = ["Arm", "InitialModel", "Recipe", "paper_arms"]
