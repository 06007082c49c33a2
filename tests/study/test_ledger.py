"""The ledger: claims are exclusive, the dead lose theirs, and a full disk is said in a sentence."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from plait.errors import DataError, DiskFullError
from plait.study import ledger as ledgers
from plait.study.ledger import Ledger, Place, is_dead


def filled(path: Path, runs: int) -> Ledger:
    ledger = Ledger(path)
    ledger.add(
        [(f"run{k}", "run", f"runs/{k}", Place(arm="mtl", seed=k)) for k in range(runs)], finished=set()
    )
    return ledger


CLAIM_ALL = """
import sys
from pathlib import Path
from plait.study.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
for name in sorted(ledger.rows()):
    if ledger.claim(name):
        print(name, flush=True)
        assert ledger.end(name, "finished", seconds=1.0, result={"by": sys.argv[2]})
"""


def test_several_processes_share_the_runs_and_none_is_done_twice(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    filled(path, runs=60).close()
    workers = [
        subprocess.Popen([sys.executable, "-c", CLAIM_ALL, str(path), str(k)], stdout=subprocess.PIPE)
        for k in range(3)
    ]
    said = [worker.communicate()[0].decode().split() for worker in workers]
    assert all(worker.returncode == 0 for worker in workers)
    claimed = Counter(name for names in said for name in names)
    assert sorted(claimed) == sorted(f"run{k}" for k in range(60))
    assert set(claimed.values()) == {1}
    rows = Ledger(path).rows()
    assert all(rows[name].result == {"by": str(k)} for k, names in enumerate(said) for name in names)


def test_a_run_that_was_claimed_is_not_claimed_again(tmp_path: Path) -> None:
    first = filled(tmp_path / "study.db", runs=1)
    second = Ledger(tmp_path / "study.db")
    assert first.claim("run0")
    assert not second.claim("run0")
    assert not second.end("run0", "finished")
    assert first.end("run0", "finished", result={"peak": 3})
    assert second.row("run0").state == "finished"
    assert not second.claim("run0")


CLAIM_AND_WAIT = """
import sys, time
from pathlib import Path
from plait.study.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]))
print(ledger.claim("run0"), flush=True)
time.sleep(60)
"""


def test_a_killed_scheduler_loses_its_claim_at_once_and_a_living_one_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    ledger = filled(path, runs=1)
    other = subprocess.Popen([sys.executable, "-c", CLAIM_AND_WAIT, str(path)], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"True\n"
    assert ledger.recover() == []
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    assert ledger.recover() == ["run0"]
    row = ledger.row("run0")
    assert (row.state, row.attempts) == ("waiting", 0)  # the scheduler died, not the run


def test_another_machine_is_dead_when_it_was_not_heard_of_for_a_lease(tmp_path: Path) -> None:
    now = time.time()
    assert not is_dead("elsewhere 1 2.00 abc", now - ledgers.LEASE / 2)
    assert is_dead("elsewhere 1 2.00 abc", now - 2 * ledgers.LEASE)


def test_a_process_number_that_was_given_to_another_process_is_dead(tmp_path: Path) -> None:
    mine = Ledger(tmp_path / "study.db").owner
    host, number, _, word = mine.rsplit(" ", 3)
    assert number == str(os.getpid())
    assert not is_dead(mine, 0.0)
    assert is_dead(f"{host} {number} 12.34 {word}", time.time())


def test_a_scheduler_whose_claim_was_taken_cannot_write_how_the_run_ended(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "study.db", runs=1)
    assert ledger.claim("run0")
    with ledger.changing() as database:
        database.execute("UPDATE runs SET owner = 'another 1 2.00 x'")
    assert ledger.beat() == set()
    assert not ledger.end("run0", "failed", error="mine")
    assert ledger.row("run0").error == ""


def test_failed_runs_wait_again_when_asked_and_finished_ones_stay(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "study.db", runs=2)
    for name, state in (("run0", "failed"), ("run1", "finished")):
        assert ledger.claim(name)
        ledger.end(name, state, error="no such image" * (state == "failed"))
    assert ledger.retry() == 1
    assert ledger.row("run0").state == "waiting"
    assert ledger.row("run0").error == ""
    assert ledger.row("run1").state == "finished"


def test_what_was_settled_first_stays(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.db")
    assert ledger.settle("choices", {"precision": "fp32"}) == {"precision": "fp32"}
    assert Ledger(tmp_path / "study.db").settle("choices", {"precision": "bf16"}) == {"precision": "fp32"}
    ledger.write_down(code="abc")
    ledger.write_down(code="def")
    assert ledger.fact("code") == "def"
    assert ledger.fact("nothing", 3) == 3


def test_a_change_that_fails_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "study.db", runs=2)

    def half() -> None:
        with ledger.changing() as database:
            database.execute("UPDATE runs SET state = 'failed'")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert {row.state for row in ledger.rows().values()} == {"waiting"}


def test_a_full_disk_is_one_sentence_and_what_was_written_stays(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "study.db", runs=1)
    pages = ledger.database.execute("PRAGMA page_count").fetchone()[0]
    ledger.database.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own full disk
    with pytest.raises(DiskFullError, match=r"the disk is full: .*study\.db.*start the same command again"):
        ledger.write_down(long="x" * 100_000)
    assert ledger.row("run0").state == "waiting"
    assert ledger.fact("long") is None


def test_damaged_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    with pytest.raises(DataError, match="holds no study"):
        Ledger(path, create=False)
    path.write_bytes(b"no database " * 1000)
    with pytest.raises(DataError, match=r"study\.db is damaged or no study's database"):
        Ledger(path)


def test_the_file_is_whole_after_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    filled(path, runs=1).close()
    code = (
        "import sys\nfrom pathlib import Path\nfrom plait.study.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1]))\nprint('begun', flush=True)\nk = 0\n"
        "while True:\n    k += 1\n    ledger.write_down(count=k, text=str(k) * 2000)\n"
    )
    for pause in (0.02, 0.05, 0.09):
        worker = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(pause)
        worker.kill()
        worker.wait()
        worker.stdout.close()
        ledger = Ledger(path)
        assert ledger.database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert ledger.fact("text", "") == str(ledger.fact("count", 0)) * 2000 or ledger.fact("count") is None
        ledger.close()


def test_no_write_ahead_log_is_used_because_network_file_systems_cannot(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.db")
    assert ledger.database.execute("PRAGMA journal_mode").fetchone()[0] == "delete"
    assert isinstance(ledger.database, sqlite3.Connection)
