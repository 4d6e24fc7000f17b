"""What importing costs, and how large the core is."""

import subprocess
import sys
from pathlib import Path

import pytest

import course_utils

CORE = sorted(Path(course_utils.__file__).parent.glob("*.py"))


def loaded_by(statement):
    """The top-level modules that a fresh Python has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_package_itself_costs_nothing():
    assert not {"torch", "numpy", "matplotlib", "sklearn"} & loaded_by("import course_utils")


def test_the_core_needs_only_what_it_says():
    """Neither torchvision nor what builds and grades the course: a student's laptop has less than this checkout."""
    modules = [f"course_utils.{path.stem}" for path in CORE if path.stem != "__init__"]
    loaded = loaded_by("import " + ", ".join(modules))
    assert "torch" in loaded
    assert not {"torchvision", "sklearn", "scipy", "ot", "diffusers", "nbgrader", "IPython"} & loaded


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_every_module_says_what_it_is(path):
    assert path.read_text().startswith('"""')


# What a reader reads to know how diffusion models work; around it are data sets, pictures and commands. The theory of
# chapters 1 and 2 (energies, Langevin dynamics, score matching, likelihood) is a good quarter of it.
TEACHING = "schedules denoiser mixtures samplers guidance models training metrics".split()
TEACHING += "energy langevin losses likelihood".split()


def test_the_core_fits_in_a_head():
    lines = {path.stem: len(path.read_text().splitlines()) for path in CORE}
    assert sum(lines.get(name, 0) for name in TEACHING) <= 2000, lines
    assert max(lines.values()) <= 350, lines
