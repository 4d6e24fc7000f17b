"""A cluster and a database for a large class, the real things: PostgreSQL, and dask with a worker that is lost."""

import contextlib
import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from tiny_class import SQUARES, WRONG, answers, hand_in, make_course

from course_utils.grading import Course, GradingError, grade_course

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
TESTS = Path(__file__).parent
# A dask worker's engine is the quick one; this is loaded into each worker before it starts.
PRELOAD = "from course_utils.grading import cluster; from tiny_class import QuickEngine; cluster.Engine = QuickEngine"


@pytest.fixture
def postgres():
    """The db_url of a throw-away PostgreSQL: a folder of its own, a unix socket, no port."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if not initdb:
        pytest.skip("no PostgreSQL is installed: `make system` installs it on Debian")
    pytest.importorskip("psycopg2")
    user = getpass.getuser()
    root = os.getuid() == 0  # as whom PostgreSQL refuses to run
    who = next(name for name in ("postgres", "nobody") if _exists(name)) if root else user
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        if root:
            shutil.chown(folder, who)

        def run(program, *arguments):
            command = [Path(initdb).with_name(program), *arguments]
            options = {"user": who, "group": pwd.getpwnam(who).pw_gid, "extra_groups": []} if root else {}
            subprocess.run(command, check=True, capture_output=True, cwd=folder, **options)

        run("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "grader", "-E", "UTF8", "--locale=C", "--no-sync")
        settings = f"-k {folder} -c listen_addresses='' -c fsync=off"
        run("pg_ctl", "-D", f"{folder}/data", "-o", settings, "-l", f"{folder}/log", "-w", "start")
        try:
            yield f"postgresql+psycopg2://grader@/postgres?host={folder}"
        finally:
            run("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")


def _exists(name):
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwnam(name))


@pytest.fixture
def dask(tmp_path):
    """(address, the two workers' processes) of a scheduler with two workers on this machine."""
    pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    environment = dict(os.environ, PYTHONPATH=f"{TESTS}{os.pathsep}{TESTS.parent}", OMP_NUM_THREADS="1")
    environment["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "60s"
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL))
        return started[-1]

    start("scheduler", "--host", address, "--no-dashboard", "--no-show")
    shape = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--preload", PRELOAD)
    workers = [start("worker", address, *shape) for _ in range(2)]
    yield address, workers
    for process in started:
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGKILL)
        process.wait()


def test_a_gradebook_in_postgresql(tmp_path, postgres, monkeypatch):
    from tiny_class import QuickEngine

    from course_utils.grading import pool

    monkeypatch.setattr(pool, "METHOD", "fork")
    monkeypatch.setattr(pool, "Engine", QuickEngine)
    folder = make_course(tmp_path)
    (folder / "nbgrader_config.py").write_text(f"c = get_config()\nc.CourseDirectory.db_url = {postgres!r}\n")
    hand_in(folder, "ada", answers())
    hand_in(folder, "ünï", answers(squares=WRONG))
    rows = {row["student"]: row for row in grade_course(folder, unsafe=True, workers=1)}
    assert (rows["ada"]["score"], rows["ünï"]["score"]) == (3, 1)
    assert not (folder / "gradebook.db").exists()
    course = Course(folder)
    with course.api.gradebook as gradebook:
        grade = gradebook.find_grade("why", "powers", "powers", "ada")
        grade.manual_score, grade.needs_manual_grade = 2, False
        gradebook.db.commit()
    hand_in(folder, "ünï", answers())
    rows = {row["student"]: row for row in grade_course(folder, unsafe=True, workers=1)}
    assert (rows["ada"]["score"], rows["ünï"]["score"]) == (5, 3)
    assert "5 of 6 points" in (course.path("feedback", "ada", "powers") / "powers.html").read_text()


def test_a_cluster_that_loses_a_worker_grades_everybody(tmp_path, dask):
    address, workers = dask
    folder = make_course(tmp_path / "class")
    slow = f"import time\ntime.sleep(0.3)\n{SQUARES}"
    for number in range(12):
        hand_in(folder, f"s{number:02}", answers(squares=slow if number % 2 else WRONG))
    hand_in(folder, "too odd", "no notebook")
    _wait_for(address, 2)
    lost = []

    def lose_one(*_):
        if not lost and len(list(folder.rglob("*.graded"))) >= 2:
            workers[0].send_signal(signal.SIGKILL)
            lost.append(time.monotonic())

    before = signal.signal(signal.SIGALRM, lose_one)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        rows = {row["student"]: row for row in grade_course(folder, unsafe=True, scheduler=address)}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert lost and workers[0].wait() == -signal.SIGKILL and workers[1].poll() is None
    assert {rows[f"s{n:02}"]["score"] for n in range(1, 12, 2)} == {3}
    assert {rows[f"s{n:02}"]["score"] for n in range(0, 12, 2)} == {1}
    assert "damaged" in rows["too odd"]["problem"]


def _wait_for(address, number):
    """Until the cluster has that many workers."""
    from distributed import Client

    with Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(number, timeout=120)


def test_a_cluster_that_is_not_there_is_said(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    folder = make_course(tmp_path)
    hand_in(folder, "ada", answers())
    from course_utils.grading import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(GradingError, match="There is no dask scheduler at tcp://127.0.0.1:9"):
        grade_course(folder, unsafe=True, scheduler="tcp://127.0.0.1:9")
