"""What is predicted: a task is one frozen value that holds everything that differs between tasks.

``parse`` turns a declaration into tasks, one factory function a kind (``semantic``, ``depth``,
``inverse_depth``, ``normals``, ``edges``, ``saliency``); ``losses`` turns predictions and targets into one
scalar a task.
"""

from plait.tasks.base import Legend, Loss, Measure, Scoring, Task
from plait.tasks.check import check_label
from plait.tasks.objective import losses, parse

__all__ = ["Legend", "Loss", "Measure", "Scoring", "Task", "check_label", "losses", "parse"]
