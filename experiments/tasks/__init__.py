"""The tasks, by name."""

from experiments.tasks.arithmetic import Arithmetic
from experiments.tasks.pronunciation import Pronunciation
from experiments.tasks.task import Scores
from experiments.tasks.translation import Translation

TASKS = {
    task.name: task for task in (Pronunciation(), Translation(), Arithmetic())
}
