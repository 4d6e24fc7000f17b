"""Grading a class: nbgrader's workflow in one command, `python -m course_utils.grading --course FOLDER`.

Names are imported when they are first used: the processes that run students' code load this package too, and must not
carry nbgrader and its database along.
"""

import importlib
import sys

# jsonschema would check addresses (IRIs) with it, which no notebook holds, and its import alone takes two seconds.
sys.modules.setdefault("rfc3987_syntax", None)

NEEDS_LINUX = "Grading needs Linux: use WSL2, a virtual machine or a container. The labs themselves run everywhere."
HOME = {
    "Course": "course",
    "GradingError": "course",
    "nbgrader_config": "course",
    "grade_course": "grade",
    "Engine": "execute",
    "Limits": "execute",
    "SandboxError": "execute",
}
__all__ = ["Course", "Engine", "GradingError", "Limits", "SandboxError", "grade_course", "nbgrader_config"]


def __getattr__(name):
    if name not in HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOME[name]}"), name)
