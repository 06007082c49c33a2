"""`plait study` and `plait report` of studies: what is refused, and in which words."""

from pathlib import Path

import pytest
from tests.study.tiny_study import write_study

from plait.cli import main
from plait.study.ledger import Ledger, Place
from plait.study.status import is_study, read_status


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "nowhere"], "'nowhere' is no recipe and no study"),
        (["run", "rooms/balancng"], "did you mean 'rooms/balancing'"),
        (["run", "rooms/balancing", "--sseds", "2"], "unknown argument '--sseds' (did you mean '--seeds'?)"),
        (["run", "rooms/balancing", "--device", "tpu"], "--device must be cpu, cuda, or devices as cuda:0"),
        (["run", "rooms/balancing", "--device", "cuda:99"], "got 'cuda:99'"),
        (["run", "rooms/balancing", "--slurm", "gpu"], "--slurm takes options as KEY=VALUE"),
        (["run", "rooms/balancing", "--slurm", "a=b", "--ray", "auto"], "--ray and --slurm exclude"),
        (["run", "rooms/balancing", "--training.step", "3"], "unknown key 'training.step'"),
        (["run", "rooms/mtl"], "unknown key 'data'"),
        (["status", "rooms/balancing"], "has not been begun in studies/rooms-balancing"),
        (["status", "."], "holds no study: it has no study.db"),
    ],
)  # fmt: skip
def test_wrong_words_are_answered_in_one_sentence(
    words: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sentence in said(capsys, "study", *words)


def test_a_study_and_runs_are_not_reported_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger(tmp_path / "study" / "study.db").close()
    (tmp_path / "runs").mkdir()
    error = said(capsys, "report", str(tmp_path / "study"), str(tmp_path / "runs"))
    assert "is a study and" in error
    assert "report them apart" in error


def test_a_study_that_has_not_begun_cannot_be_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Ledger(tmp_path / "study.db").close()
    assert "has not begun" in said(capsys, "report", str(tmp_path))


def test_what_is_a_study(tmp_path: Path) -> None:
    Ledger(tmp_path / "begun" / "study.db").close()
    assert is_study(tmp_path / "begun")
    assert is_study(write_study(tmp_path))
    assert is_study(Path("rooms/balancing"))
    assert not is_study(tmp_path)
    assert not is_study(Path("rooms/mtl"))


def test_status_names_failures_and_who_carries_it_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.db")
    places = [Place(arm="MTL", seed=seed) for seed in range(3)]
    ledger.add([(f"r{p.seed}", "run", f"runs/{p.seed}", p) for p in places], finished={"r0"})
    arms = [{"name": "MTL", "networks": [{"task": ""}]}]
    ledger.write_down(arms=arms, study={"seeds": [0, 1, 2]}, expected=3, command="plait study run x")
    assert ledger.claim("r1")
    ledger.end("r1", "failed", error="NaN in the loss of depth")
    assert ledger.claim("r2")
    snapshot, sentences = read_status(tmp_path)
    assert [snapshot.count(s) for s in ("finished", "failed", "running")] == [1, 1, 1]
    assert sentences[0] == "1 of 3 runs are finished"
    assert "MTL, seed 1 failed: NaN in the loss of depth" in sentences
    assert any(sentence.startswith("carried out by process") for sentence in sentences)
    with ledger.changing() as database:
        database.execute("UPDATE runs SET owner = 'elsewhere 1 2.00 x', heartbeat = 0 WHERE identity = 'r2'")
    _, sentences = read_status(tmp_path)
    assert "MTL, seed 2 was running when its process ended" in sentences
    assert "nobody is carrying it out now: `plait study run x` goes on" in sentences
    ledger.close()
