"""``plait`` alone, ``plait doctor`` and ``plait completion``: what a newcomer meets first."""

import json
import shlex
import shutil
import subprocess
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from plait import doctor
from plait.cli import main, make_parser
from plait.commands.completion import script
from plait.commands.welcome import next_steps


def commands_of(text: str) -> list[list[str]]:
    """The plait commands that a text shows, with their words."""
    lines = [line.strip() for line in text.splitlines() if line.startswith("  plait ")]
    return [shlex.split(line.partition("   ")[0])[1:] for line in lines]


def test_plait_alone_says_what_to_do_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    printed = capsys.readouterr().out
    shown = commands_of(printed)
    assert len(shown) >= 6
    for words in shown:
        make_parser().parse_args(words)
    assert max(map(len, printed.splitlines())) < 120


def run_in(folder: Path, *, finished: bool) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").touch()
    (folder / "environment.json").write_text("{}")
    if finished:
        (folder / "scores.json").write_text(json.dumps({}))
    return folder


def test_it_goes_by_what_lies_in_the_folder(tmp_path: Path) -> None:
    assert list(next_steps(tmp_path)) == []
    run_in(tmp_path / "runs" / "a b", finished=False)
    assert [command for command, _ in next_steps(tmp_path)] == [
        f"plait train '{tmp_path}/runs/a b/recipe.yaml' --out '{tmp_path}/runs/a b'"
    ]
    run_in(tmp_path / "runs" / "c", finished=True)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.yaml").touch()  # a recipe, not a run
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.db").touch()
    found = [command for command, _ in next_steps(tmp_path)]
    assert f"plait demo {tmp_path}/runs/c" in found
    assert f"plait report {tmp_path}/runs" in found
    assert f"plait study status {tmp_path}/mine" in found
    for command in found:
        make_parser().parse_args(shlex.split(command)[1:])


def test_the_doctor_names_versions_devices_caches_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for part in ("versions", "torch", "devices", "memory", "caches", "hub", "optional parts", *doctor.PARTS):
        assert part in printed


def test_the_doctor_takes_caches_that_may_not_be_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exists = Path.exists

    def refused(path: Path, **kwargs: bool) -> bool:
        if path.is_relative_to(tmp_path / "closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return exists(path, **kwargs)

    monkeypatch.setattr(Path, "exists", refused)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "closed" / "cache"))
    told = dict(doctor.caches())
    assert told["plait"].startswith(f"{tmp_path / 'closed' / 'cache' / 'plait'} (not there yet; ")


def test_every_part_for_users_is_known_to_the_doctor() -> None:
    extras = set(metadata("plait").get_all("Provides-Extra") or ())
    assert set(doctor.PARTS) == extras - {"test", "docs"}


def test_what_is_missing_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed", lambda needed: needed.name != "onnxruntime")
    assert doctor.missing("tune") == []
    (lacking,) = doctor.missing("export")
    assert Requirement(lacking).name == "onnxruntime"
    lines = doctor.examine().lines()
    assert any(f"missing {lacking}: pip install 'plait[export]'" in line for line in lines)


def test_a_package_that_is_too_old_is_missing() -> None:
    assert doctor.installed(Requirement("torch>=2.8"))
    assert not doctor.installed(Requirement("torch>=99"))
    assert not doctor.installed(Requirement("a-package-that-nobody-made"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_completion_script_knows_every_command(shell: str) -> None:
    made = script(make_parser(), shell)
    for command in ("predict", "study", "completion"):
        assert command in made


COMPLETE = """
source {script}
COMP_WORDS=({words}) COMP_CWORD={at}
_completion_loader() {{ :; }}
function=$(complete -p plait | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
$function plait "${{COMP_WORDS[$COMP_CWORD]}}" "${{COMP_WORDS[$((COMP_CWORD-1))]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["plait", "dia"], "diagnose"),
        (["plait", "train", "--fr"], "--fresh"),
        (["plait", "list", "enc"], "encoders"),
        (["plait", "train", "rooms_sh"], "rooms_shared"),
        (["plait", "study", "run", "rooms/ba"], "rooms/balancing"),
        (["plait", "report", "here"], "here.yaml"),
    ],
)
def test_bash_completes(words: list[str], offered: str, tmp_path: Path) -> None:
    (tmp_path / "here.yaml").touch()
    (tmp_path / "plait.bash").write_text(script(make_parser(), "bash"))
    asked = COMPLETE.format(script="plait.bash", words=" ".join(words), at=len(words) - 1)
    done = subprocess.run(["bash", "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert offered in done.stdout.split(), done.stderr
