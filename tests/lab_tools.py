"""A small lab for tests of the builder and of grading, in a repository of its own."""

import ast
import copy
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
REPOSITORY, WEBSITE = "https://github.com/someone/elsewhere", "https://someone.github.io/elsewhere/"

SMALL_LAB = '''\
# %% [markdown]
# # A small lab
#
# It has everything that a lab can have.

# %%
import torch

from course_utils.exercises import check, grade

# %% [markdown]
# ## Exercise 3.1: the product

# %% solution="alpha_bar"
def alpha_bar(beta):
    """(T + 1,) -> (T + 1,)."""
    ### BEGIN SOLUTION
    secretly_kept = 1 - beta
    return secretly_kept.cumprod(0)
    ### END SOLUTION

# %% tests="alpha_bar_test" points=1
check("ddpm_2d.alpha_bar", alpha_bar)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.alpha_bar", alpha_bar)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 3.2: the jump
#
# <details><summary>Hint 1</summary>
#
# Two square roots.
#
# </details>

# %% solution="q_sample"
def q_sample(x0, k, noise, alpha_bar):
    """x0 (B, ...), k (B,), alpha_bar (T + 1,) -> (B, ...)."""
    ### BEGIN SOLUTION
    ab = alpha_bar[k].to(x0.dtype).reshape(-1, *[1] * (x0.ndim - 1))
    return ab.sqrt() * x0 + (1 - ab).sqrt() * noise
    ### END SOLUTION

# %% tests="q_sample_test" points=2
check("ddpm_2d.q_sample", q_sample)
### BEGIN HIDDEN TESTS
grade("ddpm_2d.q_sample", q_sample)
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 3.3: why?
#
# Why does the chain end near N(0, I)?

# %% [markdown] essay="why" points=3
# One point each: the signal is multiplied by a factor below one again and again; the variance is kept at one;
# alpha_bar(T) is close to zero.

# %%
print(torch.linspace(0, 1, 3))
'''


def small_repository(folder, lab=SMALL_LAB, name="03_small"):
    """A repository with one lab and the course's settings, but this address; returns the path of the lab's source."""
    path = Path(folder, "solutions", name, f"{name}.py")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lab, "utf-8")
    Path(folder, "book").mkdir(exist_ok=True)
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    config["repository"]["url"], config["html"]["baseurl"] = REPOSITORY, WEBSITE
    Path(folder, "_config.yml").write_text(yaml.safe_dump(config), "utf-8")
    return path


def grade_id(cell):
    """The cell's nbgrader id, or None."""
    return cell.metadata.get("nbgrader", {}).get("grade_id")


def only_graded(notebook):
    """The notebook with imports, answers and tests, which is all that its points depend on.

    The other cells are emptied, not dropped: grading would put them back as they were handed out, trainings and all.
    """
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if not (grade_id(cell) or only_defines(cell)):
            cell.source = ""
    return notebook


def only_defines(cell):
    """Is this a code cell of imports and definitions, which does nothing by itself?"""
    if cell.cell_type != "code":
        return False
    try:
        statements = ast.parse(cell.source).body
    except SyntaxError:  # a magic
        return False
    return all(isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef) for node in statements)


def shortened(notebook):
    """The notebook with at most 50 steps of training instead of thousands: it does as before, to a poorer network."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"\bn_steps=([\d_]+)", lambda n: f"n_steps={min(50, int(n[1]))}", cell.source)
    return notebook
