"""The matrix of the graders, ``python -m course_utils.exercises``: what each refuses, recognises and accepts."""

import sys

import torch

from course_utils.exercises import EXERCISES


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


def main(seeds=(0, 1, 2)):
    torch.set_num_threads(1)
    print(f"{'exercise':26}{'points':>7}{'refused':>10}{'recognised':>12}{'accepted':>10}")
    faults = 0
    for exercise, wrong, right in matrix(seeds):
        refused = {n for n, results in wrong.items() if not any(results)}
        recognised = {n for n, results in wrong.items() if all(r.misconception == n for r in results)}
        accepted = {n for n, results in right.items() if all(results)}
        counts = (f"{len(refused)}/{len(wrong)}", f"{len(recognised)}/{len(wrong)}", f"{len(accepted)}/{len(right)}")
        print(f"{exercise.id:26}{exercise.points:7}{counts[0]:>10}{counts[1]:>12}{counts[2]:>10}")
        for name, misconception in exercise.misconceptions.items():
            print(f"    {'✓' if name in refused & recognised else '✗'} {name}: {misconception.sentence}")
        for name in exercise.equivalents:
            print(f"    {'✓' if name in accepted else '✗'} {name} (right, written differently)")
        faults += len(wrong) - len(refused & recognised) + len(right) - len(accepted)
    print("Every grader does what it should." if not faults else f"{faults} answers are judged wrongly.")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
