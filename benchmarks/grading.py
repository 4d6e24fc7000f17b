"""How fast grading is beside stock nbgrader, and whether time and memory stay as they are when the class grows.

One torch notebook (a small lab of the course, solved), a class of 20 and one of 200, of which a tenth is hostile or
broken; all protections on, two workers. Beside it stock `nbgrader autograde`, one process, on six of them. Then the
command is killed ten times at random moments, and run once more. Prints what is asked for and what was measured, and
writes course_utils/measured/grading.json, which the site shows. Takes about five minutes on two quiet cores.

    python benchmarks/grading.py [--small 20] [--large 200] [--stock 6] [--kills 10]
"""

import argparse
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]

from grading_class import LAB, LAB_RIGHT, Draft, Place, command, finished, killed_at, nothing_left, points  # noqa: E402
from grading_corpus import CORPUS  # noqa: E402

MEASURED = ROOT / "course_utils" / "measured" / "grading.json"
HOSTILE = [s for s in CORPUS if s.name in ("lab_patched_checks", "lab_tensor_that_agrees")]
EXIT = "import os\n\ndef q_sample(x0, k, noise, alpha_bar):\n    os._exit(1)"


def hand_in(place, number):
    """A class of so many: right, but of every ten one hostile, or one that ends its process, or a damaged file."""
    for n in range(number):
        draft = Draft(place, f"s{n:03}", LAB)
        draft.write(**LAB_RIGHT)
        if n % 10 == 9:
            kind = n // 10 % 4
            if kind < 2:
                HOSTILE[kind].edit(draft)
            elif kind == 2:
                draft.write(q_sample=EXIT)
            else:
                draft.path.write_text("{")
        draft.save()


@contextlib.contextmanager
def a_class(number):
    with tempfile.TemporaryDirectory(prefix="class-") as folder, Place(Path(folder) / "place") as place:
        hand_in(place, number)
        yield place


# ---- ours ------------------------------------------------------------------------------------------------------------


def ours(number):
    """Grade a class of so many by the command; what was measured, a dict."""
    with a_class(number) as place:
        begin, begin_ns = time.monotonic(), time.time_ns()
        process = command(place, "--workers", "2")
        memory = Memory(process.pid)
        while process.poll() is None:
            memory.look()
            time.sleep(1)
        seconds, left = time.monotonic() - begin, not nothing_left(place)
        times = sorted(finished(place).values())
        late = times[len(times) // 2 :]  # the second half, when all workers have long begun
        right = sum(sum(points(place.course, f"s{n:03}", LAB).values()) == 3 for n in range(number) if n % 10 != 9)
    return {
        "submissions": number,
        "seconds": seconds,
        "first": (times[0] - begin_ns) / 1e9,
        "seconds_each": statistics.linear_regression(range(len(late)), late).slope / 1e9,  # two workers end in pairs
        "parent": memory.parent,
        "worker": memory.worker,
        "left": left,
        "honest_right": right / (number - number // 10),
    }


class Memory:
    """Peaks in bytes: of the command's process, and of a worker with all below it (what they share counts once)."""

    def __init__(self, pid):
        self.pid, self.parent, self.worker = pid, 0, 0

    def look(self):
        with contextlib.suppress(OSError, IndexError):
            text = Path(f"/proc/{self.pid}/status").read_text()
            self.parent = max(self.parent, int(text.split("VmHWM:")[1].split()[0]) * 1024)
        for worker in below(self.pid):
            self.worker = max(self.worker, sum(map(own, tree(worker))))


def below(pid):
    """The processes that a process has started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def tree(pid):
    return [pid, *(p for child in below(pid) for p in tree(child))]


def own(pid):
    """A process's memory, with its part of what it shares."""
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/smaps_rollup").read_text().split("\nPss:")[1].split()[0]) * 1024
    return 0


# ---- stock -----------------------------------------------------------------------------------------------------------


def stock(number):
    """Seconds a submission of nbgrader's own autograde, in one process, without its start."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where alembic is
    with a_class(number) as place:
        config = Config()
        config.CourseDirectory.root = str(place.course)
        api = NbGraderAPI(config=config)
        assert api.generate_assignment(LAB)["success"]
        begin = time.monotonic()
        for n in range(number):
            assert api.autograde(LAB, f"s{n:03}")["success"]
        seconds = time.monotonic() - begin
        assert all(sum(points(place.course, f"s{n:03}", LAB).values()) == 3 for n in range(number))
    return seconds / number


# ---- killing ---------------------------------------------------------------------------------------------------------


def kills(times, number=20):
    """Kill the command so many times at random moments and run it once more: what was right, a dict."""
    chance, again = random.Random(0), 0
    with a_class(number) as whole, a_class(number) as place:
        assert command(whole).wait() == 0
        for _ in range(times):
            again += not killed_at(place, chance.choice([0, 1, 2]), chance.uniform(0, 2))
        done = finished(place)
        assert command(place).wait() == 0
        again += not done.items() <= finished(place).items()
        same = (place.course / "grades.csv").read_text() == (whole.course / "grades.csv").read_text()
        return {"kills": times, "run_again": again, "same_grades": same, "left": not nothing_left(place)}


# ---- what is asked ---------------------------------------------------------------------------------------------------


def verdicts(found):
    """(what, asked, measured, whether it is kept) of each."""
    small, large, stock = found["small"], found["large"], found["stock_seconds_each"]
    ratio, slower = large["seconds"] / large["submissions"] / stock, large["seconds_each"] / small["seconds_each"] - 1
    grown, gib = large["parent"] / small["parent"] - 1, 2**30
    rows = [
        ("seconds a submission, stock", "", f"{stock:.2f}", True),
        ("seconds a submission, ours, start included", "", f"{large['seconds'] / large['submissions']:.3f}", True),
        ("ours beside stock", "at most 0.12", f"{ratio:.3f}", ratio <= 0.12),
        ("first result, s", "within 10", f"{large['first']:.1f}", large["first"] <= 10),
        ("time a submission, large beside small class", "within 15 %", f"{slower:+.1%}", slower <= 0.15),
        ("parent's memory, large beside small class", "within 10 %", f"{grown:+.1%}", grown <= 0.10),
        ("parent's memory, MB", "", f"{large['parent'] / 2**20:.0f}", True),
        ("peak of a worker, GB", "at most 1", f"{large['worker'] / gib:.2f}", large["worker"] <= gib),
        ("honest ones with full points", "all", f"{large['honest_right']:.0%}", large["honest_right"] == 1),
        ("processes or folders left", "none", "some" if large["left"] else "none", not large["left"]),
    ]
    if found["killed"]:
        killed = found["killed"]
        rows += [
            (f"grades after {killed['kills']} kills", "the same", str(killed["same_grades"]), killed["same_grades"]),
            ("runs that did finished ones again", "0", str(killed["run_again"]), not killed["run_again"]),
            ("left after the kills", "none", "some" if killed["left"] else "none", not killed["left"]),
        ]
    return rows


def main():
    warnings.simplefilter("ignore")  # nbgrader's database layer's, a page of them
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, number in {"small": 20, "large": 200, "stock": 6, "kills": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    arguments = parser.parse_args()
    found = {"cores": os.cpu_count(), "stock_seconds_each": stock(arguments.stock)}
    found |= {"small": ours(arguments.small), "large": ours(arguments.large)}
    found["killed"] = kills(arguments.kills) if arguments.kills else None
    MEASURED.write_text(json.dumps(found, indent=1) + "\n")
    for what, asked, measured, kept in verdicts(found):
        print(f"{what:48}{asked:>14}{measured:>12}  {'' if kept else 'NO'}".rstrip())
    print(f"\nLoad of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.")


if __name__ == "__main__":
    main()
