"""The matrix of the graders, ``python -m course_utils.exercises``: what each refuses, recognises and accepts.

With ``--write`` the result also goes into course_utils/measured/graders.json, which the site shows.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from course_utils.exercises import EXERCISES

MEASURED = Path(__file__).parents[1] / "measured" / "graders.json"


def student(exercise, function):
    """A misconception or equivalent as a student's own function: its text, run outside the package."""
    namespace = {}
    exec(compile(exercise.written(function), "<answer>", "exec"), namespace)
    return namespace[exercise.name]


def matrix(seeds):
    """Rows (exercise, results of the misconceptions, results of the equivalents): dicts name -> list of Results."""
    for exercise in EXERCISES.values():
        wrong, right = (
            {n: [exercise.grade(student(exercise, f), seed) for seed in seeds] for n, f in answers.items()}
            for answers in (exercise.misconceptions, exercise.equivalents)
        )
        yield exercise, wrong, right


def verdicts(wrong, right):
    """A row of the matrix as names: what is refused and what recognised at every seed, what accepted at every seed."""
    return {
        "refused": [n for n, results in wrong.items() if not any(results)],
        "recognised": [n for n, results in wrong.items() if all(r.misconception == n for r in results)],
        "accepted": [n for n, results in right.items() if all(results)],
    }


def main(seeds=(0, 1, 2), write=False):
    torch.set_num_threads(1)
    print(f"{'exercise':26}{'points':>7}{'refused':>10}{'recognised':>12}{'accepted':>10}")
    faults, rows = 0, {}
    for exercise, wrong, right in matrix(seeds):
        rows[exercise.id] = row = verdicts(wrong, right)
        judged_well = {*row["refused"]} & {*row["recognised"]}
        counts = [f"{len(row[what])}/{n}" for what, n in totals(exercise).items()]
        print(f"{exercise.id:26}{exercise.points:7}{counts[0]:>10}{counts[1]:>12}{counts[2]:>10}")
        for name, misconception in exercise.misconceptions.items():
            print(f"    {'✓' if name in judged_well else '✗'} {name}: {misconception.sentence}")
        for name in exercise.equivalents:
            print(f"    {'✓' if name in row['accepted'] else '✗'} {name} (right, written differently)")
        faults += len(wrong) - len(judged_well) + len(right) - len(row["accepted"])
    print("Every grader does what it should." if not faults else f"{faults} answers are judged wrongly.")
    if write:
        MEASURED.write_text(json.dumps({"seeds": list(seeds), "verdicts": rows}, indent=1) + "\n", "utf-8")
    return 1 if faults else 0


def totals(exercise):
    """How many there are to be refused, recognised and accepted."""
    wrong = len(exercise.misconceptions)
    return {"refused": wrong, "recognised": wrong, "accepted": len(exercise.equivalents)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m course_utils.exercises", description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"also write {MEASURED.name}, which the site shows")
    sys.exit(main(write=parser.parse_args().write))
