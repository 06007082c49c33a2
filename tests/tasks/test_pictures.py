"""Pictures: what a colour means is fixed, and unknown is grey."""

import numpy as np
import torch

from plait.tasks import parse, pictures


def test_classes_have_distinct_colours_that_are_not_grey() -> None:
    colours = np.vstack([pictures.palette(60), [pictures.GREY]]).astype(int)
    distance = np.abs(colours[:, None] - colours[None]).sum(2) + 1000 * np.eye(len(colours), dtype=int)
    assert distance.min() >= 12
    assert distance[:20, :20].min() >= 40
    assert distance[-1].min() >= 40
    assert (pictures.palette(3) == pictures.palette(60)[:3]).all()


def test_classes_are_drawn_as_the_legend_says() -> None:
    (task,) = parse({"s": {"kind": "semantic", "classes": ["wall", "door"]}})
    drawn = task.picture(torch.tensor([[[0, 1, 255]]]))
    assert [tuple(int(v) for v in pixel) for pixel in drawn[0]] == [
        colour for _, colour in task.legend.entries
    ]
    assert [text for text, _ in task.legend.entries] == ["wall", "door", "unknown"]
    wrong = task.error(torch.tensor([[[0, 1, 0]]]), torch.tensor([[[0, 0, 255]]]))
    assert [tuple(int(v) for v in p) for p in wrong[0]] == [pictures.RIGHT, pictures.WRONG, pictures.GREY]


def test_the_depth_bar_is_metric_and_clips() -> None:
    (task,) = parse({"d": {"kind": "depth", "far": 4.0}})
    assert (task.legend.low, task.legend.high) == ("0 m", "4 m")
    drawn = task.picture(torch.tensor([[[-1.0, 0.0, 4.0, 9.0, torch.nan]]]))[0]
    bar = task.legend.bar
    assert bar is not None
    assert (drawn == np.stack([bar[0], bar[0], bar[-1], bar[-1], pictures.GREY])).all()


def test_normals_are_drawn_as_the_legend_says() -> None:
    (task,) = parse({"n": {"kind": "normals"}})
    seen = {"faces us": (0, 0, -1), "faces right": (1, 0, 0), "faces up": (0, -1, 0), "faces down": (0, 1, 0)}
    for text, normal in seen.items():
        drawn = task.picture(torch.tensor(normal, dtype=torch.float32).view(3, 1, 1))[0, 0]
        assert tuple(int(v) for v in drawn) == dict(task.legend.entries)[text]
    assert tuple(task.picture(torch.full((3, 1, 1), torch.nan))[0, 0]) == pictures.GREY
