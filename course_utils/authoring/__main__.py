"""`python -m course_utils.authoring [--check]`: write notebooks/, or say what is out of step."""

import argparse
import logging
import sys
from pathlib import Path

from .build import build, out_of_step
from .errors import AuthoringError


def main():
    parser = argparse.ArgumentParser(prog="python -m course_utils.authoring", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where notebooks/ is out of step")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the repository (default: this folder)")
    arguments = parser.parse_args()
    if not (arguments.root / "_config.yml").exists():
        sys.exit(f"{arguments.root} is not the course's repository: it has no _config.yml")
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    if arguments.check:
        lines = out_of_step(arguments.root)
        if lines:
            sys.exit("\n".join([*lines, "Run `make notebooks` and commit what it writes."]))
        print("notebooks/ is in step with solutions/ and book/.")
        return
    mistakes = build(arguments.root, arguments.root / "notebooks")
    if mistakes:
        sys.exit("\n".join(map(str, mistakes)))
    for path in sorted((arguments.root / "notebooks").glob("*/*.ipynb")):
        print(f"notebooks/{path.relative_to(arguments.root / 'notebooks')}")


if __name__ == "__main__":
    try:
        main()
    except AuthoringError as mistake:
        sys.exit(str(mistake))
