"""The command line answers in one sentence, and its help is complete."""

from pathlib import Path

import pytest

from plait.cli import main, make_parser


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "did you mean 'list'?"),
        (["list", "encoder"], "did you mean 'encoders'?"),
        (["list", "--verbos"], "unknown argument '--verbos'"),
        (["train"], "the following arguments are required: RECIPE"),
        (["train", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "quickstart", "--training.stepz", "3"], "did you mean 'steps'?"),
        (["train", "quickstart", "--training.steps", "many"], "training.steps"),
        (["data", "check", "roms"], "did you mean 'rooms'?"),
        (["data", "check", "rooms", "/nonexistent"], "/nonexistent"),
        (["data", "build", "rooms", "--out", "x", "--size", "big"], "HEIGHTxWIDTH"),
        (["evaluate", "/nonexistent"], "/nonexistent"),
        (["report", "/nonexistent"], "/nonexistent"),
        (["quickstart", "--minutes", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "lst"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser()
    subparsers = next(action for action in parser._actions if action.choices)
    assert isinstance(subparsers.choices, dict)
    for name in subparsers.choices:
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        assert f"plait {name}" in capsys.readouterr().out


def test_lists_name_what_the_tables_hold(capsys: pytest.CaptureFixture[str]) -> None:
    import plait

    assert main(["list", "encoders"]) == 0
    assert capsys.readouterr().out.split() == plait.list_encoders()


def test_a_recipe_is_printed_resolved_and_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from plait.config import load_recipe

    assert main(["train", "quickstart", "--print", "--training.steps", "7"]) == 0
    written = tmp_path / "recipe.yaml"
    written.write_text(capsys.readouterr().out)
    assert load_recipe(written).training.steps == 7
