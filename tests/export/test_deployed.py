from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import plait
from plait.data.transforms import fitted
from plait.errors import ConfigurationError
from plait.export.deployed import Deployed
from plait.inference import Predictor, Sizing
from plait.inference.pictures import Pixels

SIDES = st.integers(1, 400)


def picture(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth colours with some noise: resizing is felt."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.uniform(0, 255, (1, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
    noisy = smooth.permute(1, 2, 0).numpy() + random.normal(0, 8, (height, width, 3))
    return noisy.clip(0, 255).round().astype(np.uint8)


@given(source=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES))
def test_a_fitted_picture_fills_one_side_and_keeps_its_ratio(
    source: tuple[int, int], size: tuple[int, int]
) -> None:
    found = fitted(source, size)
    factor = min(size[0] / source[0], size[1] / source[1])
    assert any(side == limit for side, limit in zip(found, size, strict=True))
    for side, before, limit in zip(found, source, size, strict=True):
        assert 1 <= side <= limit
        assert side == 1 or abs(side - before * factor) <= 0.5 + 1e-9


@pytest.mark.parametrize(
    "sizing",
    [
        Sizing((32, 40)),
        Sizing(None),
        Sizing((32, 40), (24, 24)),
        Sizing((32, 40), scales=(1.0, 1.5)),
        Sizing(None, (32, 32)),
    ],
    ids=["fitted", "own size", "fitted, in tiles", "at two scales", "own size, in tiles"],
)
@pytest.mark.parametrize("flip", [False, True], ids=["", "flip"])
def test_it_gives_what_the_predictor_gives(predictor: Predictor, sizing: Sizing, flip: bool) -> None:
    predictor = replace(predictor, sizing=sizing, flip=flip)
    deployed = Deployed(predictor)
    for size in ((32, 40), (61, 83), (90, 47), (20, 33)):
        image = picture(*size)
        with torch.inference_mode():
            found = deployed(torch.from_numpy(image)[None])
        expected = predictor(image)
        for output in deployed.outputs:
            values, reference = found[output.name][0].numpy(), expected[output.name].values
            assert values.dtype == reference.dtype == output.dtype
            assert values.shape == reference.shape
            assert np.abs(values.astype(float) - reference.astype(float)).max() < 5e-4


def test_some_tasks_alone_are_the_same(predictor: Predictor) -> None:
    some = replace(predictor, tasks=tuple(task for task in predictor.tasks if task.name == "normals"))
    image = torch.from_numpy(picture(50, 60))[None]
    with torch.inference_mode():
        alone, among = Deployed(some)(image), Deployed(predictor)(image)
    assert list(alone) == ["normals"]
    assert torch.equal(alone["normals"], among["normals"])


def test_probabilities_are_of_every_class_and_belong_to_the_ids(predictor: Predictor) -> None:
    with torch.inference_mode():
        made = Deployed(predictor, probabilities=True)(torch.from_numpy(picture(50, 60))[None])
    probabilities = made["semseg_probabilities"]
    assert probabilities.shape == (1, 50, 60, 20)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(1, 50, 60))
    assert torch.equal(probabilities.argmax(-1).to(torch.uint8), made["semseg"])


def test_what_is_laid_out_can_be_taken_apart(predictor: Predictor) -> None:
    deployed = Deployed(predictor, probabilities=True)
    with torch.inference_mode():
        maps = deployed.undecided(torch.from_numpy(picture(30, 30))[None])
        made = deployed.decided(maps)
    for output in deployed.outputs:
        expected = (
            maps[output.task.name] if output.probabilities else output.task.decide(maps[output.task.name])
        )
        assert torch.equal(output.taken_apart(made[output.name]), expected)


def test_a_task_that_is_called_as_the_input_is_refused() -> None:
    tasks = plait.tasks.parse({"image": {"kind": "depth"}})
    model = plait.create_model(backbone="test_resnet", tasks=tasks).eval()
    predictor = Predictor("one", None, model, tasks)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="'image' twice"):
        Deployed(predictor)
