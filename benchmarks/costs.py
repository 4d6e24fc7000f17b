"""What does each page and each lab cost to run, and how long is each module?

Every page with code and every solved lab is run in a kernel of its own, as a reader would; the kernel itself says at
the end how much processor time it took (on an idle machine, what the seconds come from) and how much memory it has had
at most. Limits of the course: 60 seconds a lab, 2 GB anywhere.

    python benchmarks/costs.py [name ...]        # only the pages and labs whose path holds one of the names
"""

import subprocess
import sys
import time
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
USAGE = """\
import resource
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)  # seconds and, on Linux, kilobytes
"""


def run(path):
    """(seconds, seconds of processor time, gigabytes, how it ended) of a text notebook."""
    notebook = jupytext.read(path)
    notebook.cells.append(new_code_cell(USAGE))
    client = NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    started = time.perf_counter()
    try:
        client.execute(stderr=subprocess.DEVNULL)  # of the kernel's start, not of the cells
    except CellExecutionError as error:
        nan = float("nan")
        return time.perf_counter() - started, nan, nan, f"{error.ename}: {error.evalue.splitlines()[0]}"
    seconds = time.perf_counter() - started
    processor, kilobytes = (float(number) for number in notebook.cells[-1].outputs[0].text.split())
    return seconds, processor, kilobytes * 1024 / 1e9, ""


def has_code(path):
    return any(cell.cell_type == "code" for cell in jupytext.read(path).cells)


def main():
    names = sys.argv[1:]
    pages = [p for p in sorted(ROOT.glob("book/*.md")) if p.read_text().startswith("---") and has_code(p)]
    sources = [*pages, *sorted(ROOT.glob("solutions/*/*.py"))]
    chosen = [p for p in sources if not names or any(name in str(p.relative_to(ROOT)) for name in names)]
    print(f"{'page or lab':<44}{'seconds':>8}{'of cores':>10}{'GB':>7}")
    for path in tqdm(chosen, leave=False, disable=None):
        seconds, processor, gigabytes, end = run(path)
        print(
            f"{path.relative_to(ROOT)!s:<44}{seconds:>8.0f}{processor:>10.0f}{gigabytes:>7.2f}  {end}".rstrip(),
            flush=True,
        )

    print(f"\n{'module':<44}{'lines':>8}")
    for folder in ("", "exercises", "authoring", "grading"):
        modules = sorted((ROOT / "course_utils" / folder).glob("*.py"))
        lines = {path: len(path.read_text().splitlines()) for path in modules}
        for path, n in lines.items():
            print(f"{path.relative_to(ROOT)!s:<44}{n:>8}")
        print(f"{'  together':<44}{sum(lines.values()):>8}")


if __name__ == "__main__":
    main()
