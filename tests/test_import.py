"""Importing plait, its help and its lists stay light."""

import subprocess
import sys

import pytest

HEAVY = (
    "numpy",
    "PIL",
    "torch",
    "timm",
    "torchvision",
    "torchmetrics",
    "accelerate",
    "matplotlib",
    "numba",
    "pyarrow",
    "scipy",
    "jsonargparse",
)


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules), file=sys.stderr)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in done.stderr.split()}


@pytest.mark.parametrize(
    "code",
    [
        "import plait",
        "from plait.cli import main; main(['list'])",
        "from plait.cli import main; main([])",
        "from plait.cli import main\ntry: main(['train', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_nothing_heavy_is_imported(code: str) -> None:
    assert not loaded_by(code) & set(HEAVY)


def test_importing_plait_draws_nothing_and_reads_no_yaml() -> None:
    assert not loaded_by("import plait") & {*HEAVY, "rich", "yaml"}


def test_public_names_exist() -> None:
    import plait

    for name in plait.__all__:
        assert getattr(plait, name) is not None, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        plait.nothing  # noqa: B018


@pytest.mark.parametrize("axis", ["encoder", "decoder", "head", "balancer", "data set", "task kind"])
def test_every_name_in_the_tables_leads_to_something(axis: str) -> None:
    from plait import registry

    for name in registry.AXES[axis]:
        assert callable(registry.resolve(axis, name))


@pytest.mark.parametrize(
    ("axis", "name", "expected"),
    [
        ("encoder", "os:system", "a subclass of plait.models.encoders.base.Encoder, got system"),
        ("decoder", "plait.models.encoders.shared:Shared", "a subclass of .*Decoder, got Shared"),
        ("head", "subprocess:Popen", "a subclass of plait.models.heads.Head, got Popen"),
        ("balancer", "os:environ", "a subclass of plait.balancing.base.Balancer, got a _Environ,"),
        ("data set", "subprocess:Popen", "a class with __len__, __getitem__, id, got Popen"),
        ("task kind", "os:system", "a function annotated '-> Task', got system"),
    ],
)
def test_an_import_path_must_lead_to_a_part_of_its_axis(axis: str, name: str, expected: str) -> None:
    from plait import registry
    from plait.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match=f"{axis} '{name}' must be {expected}") as caught:
        registry.resolve(axis, name)
    assert "\n" not in str(caught.value)
