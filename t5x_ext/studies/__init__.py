"""A study: a grid of small training runs, each scored on the tasks it was tuned for.

arms.py       the arms of the paper, by name
recipes.py    how a model is tuned, and where it starts
cells.py      the grid as cells, each with the hash of what determines it
store.py      the study's directory: what is finished, what is being worked on
runner.py     initial models, then cell after cell with shared compiled steps
"""

from t5x_ext.studies.arms import Arm, paper_arms
from t5x_ext.studies.recipes import InitialModel, Recipe

__all__ = ["Arm", "InitialModel", "Recipe", "paper_arms"]
