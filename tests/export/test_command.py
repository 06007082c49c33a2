import json
from pathlib import Path

import pytest

from plait.cli import main


def test_the_command_writes_a_model_and_prints_how_exact_it_is(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        main(["export", str(run_folder), "--to", "pt2", "--tasks", "depth", "normals", "--size", "24x32"])
        == 0
    )
    shown = capfd.readouterr()
    assert shown.err == ""
    for word in (
        "beside eager torch",
        "beside the evaluation",
        "allowed",
        "depth",
        "normals",
        "wrote run.pt2",
    ):
        assert word in shown.out
    assert "[torch" not in shown.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.pt2", "run.pt2.json"]
    about = json.loads((tmp_path / "run.pt2.json").read_text())
    assert about["inside"]["size"] == [24, 32]
    assert [output["name"] for output in about["outputs"]] == ["depth", "normals"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--to", "onxx"], "did you mean 'onnx'?"),
        (["--to", "pt2", "--int8"], "8-bit models are for ONNX Runtime"),
        (["--to", "pt2", "--tasks", "dept"], "did you mean 'depth'?"),
        (["--to", "pt2", "--input", "12"], "a size is HEIGHTxWIDTH"),
        ([], "--to"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    run_folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(["export", str(run_folder), *arguments]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.err.count("\n") == 1
