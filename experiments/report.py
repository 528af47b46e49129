"""Writes README.md: the text of text.md with the numbers of the runs.

    python -m experiments.report            writes README.md and the figures
    python -m experiments.report --check    fails if README.md is another text

No number is typed in: text.md has placeholders such as
`{{score pronunciation 1000 pretrained skd}}`. One without runs is an error.
"""

import argparse
import pathlib
import re
import sys

from experiments import cells
from experiments import figures
from experiments import tables
from experiments.results import REFERENCE
from experiments.results import Results
from experiments.tasks import TASKS

HERE = pathlib.Path(__file__).parent
PLACEHOLDERS = (
    "teachers",
    "task",
    "instructions",
    "explanations",
    "score",
    "difference",
    "runs",
    "hours",
)
PLACEHOLDER = re.compile(r"\{\{(\w+)([^}]*)\}\}")


class Report:
    """Fills in placeholders.

    Args:
        results: a `Results`.
    """

    def __init__(self, results):
        self.results = results

    def fill(self, text):
        """Replaces all placeholders of a text."""
        return PLACEHOLDER.sub(self._value, text)

    def _value(self, match):
        name, words = match[1], match[2].split()
        if name not in PLACEHOLDERS:
            raise ValueError(f"{match[0]} must be one of {PLACEHOLDERS}.")
        return getattr(self, name)(*words)

    def teachers(self):
        return tables.teachers(self.results)

    def task(self, name):
        """All conditions of a task: figure, scores and costs."""
        parts = []
        for condition in self.results.conditions(name):
            title = f"{condition.size:,} prompts, {condition.init} student"
            image = f"figures/{'-'.join(map(str, condition))}.svg"
            parts += [
                f"### {name.capitalize()}, {title}",
                f"![Scores, cost, acceptance and validation KL: {name}, "
                f"{title}]({image})",
                tables.scores(self.results, condition),
                tables.costs(self.results, condition),
            ]
            if self.results.rows(condition, ablations=True):
                parts += [
                    f"#### SKD with one thing changed: {name}, {title}",
                    tables.scores(self.results, condition, ablations=True),
                    tables.costs(self.results, condition, ablations=True),
                ]
        return "\n\n".join(parts) if parts else tables.NO_RUNS

    def instructions(self):
        return tables.instructions(self.results.folder)

    def explanations(self):
        return tables.explanations(self.results.folder)

    def score(self, *words):
        """The interval of a method's score."""
        return tables.interval(self._runs(*words).score)

    def difference(self, *words):
        """The interval of its difference to SKD."""
        reference = self._runs(*words[:-1], REFERENCE)
        return tables.interval(self._runs(*words).difference(reference), "+")

    def runs(self):
        """How many runs there are."""
        return f"{len(self._lines()):,}"

    def hours(self):
        """How many hours of one core they took."""
        seconds = sum(line["all_seconds"] for line in self._lines())
        return f"{seconds / 3600:.1f}"

    def _lines(self):
        """All runs of the tasks that the paper's experiment is made of."""
        return [
            line
            for task in self.results.tasks
            for path in self.results.folder.glob(f"{task}/*.jsonl")
            for line in cells.read(path)
        ]

    def _runs(self, *words):
        *words, method = words
        runs = self.results.runs(tables.condition(words), method)
        if runs is None:
            raise ValueError(
                f"The text has a number of {words}, {method}, and there is no "
                "run of it."
            )
        return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--results", type=pathlib.Path, default=cells.RESULTS)
    parser.add_argument(
        "--output", type=pathlib.Path, default=HERE / "README.md"
    )
    args = parser.parse_args()
    results = Results(args.results, TASKS)
    text = Report(results).fill((HERE / "text.md").read_text())
    if args.check:
        if args.output.read_text() != text:
            sys.exit(
                f"{args.output} does not have the numbers of the runs: run "
                "`python -m experiments.report`."
            )
        return
    args.output.write_text(text)
    for task in TASKS:
        for condition in results.conditions(task):
            figures.draw(
                results, condition, args.output.parent / figures.FOLDER.name
            )
    print(f"{args.output} is written.")


if __name__ == "__main__":
    main()
