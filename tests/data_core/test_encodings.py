"""Stored numbers become the label in memory that the declaration says, and nothing else."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from plait.data.encodings import Encoding, decode, read_label
from plait.data.labels import Depth, InverseDepth, Mask, Normals, Semantic
from plait.errors import ConfigurationError, DataError


def picture(array: np.ndarray, format: str = "PNG") -> bytes:  # noqa: A002
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, format)
    return stream.getvalue()


def test_class_ids_keep_their_numbers_and_255_is_unknown() -> None:
    label = decode(np.array([[0, 3, 255]], np.uint8), Encoding("semantic"))
    assert type(label) is Semantic
    assert label.tolist() == [[[0, 3, 255]]]


def test_ids_that_begin_at_one() -> None:
    label = decode(np.array([[0, 1, 40]], np.uint8), Encoding("semantic", offset=-1, unknown=[0]))
    assert label.tolist() == [[[255, 0, 39]]]


def test_a_table_of_ids_leaves_the_rest_unknown() -> None:
    label = decode(np.array([[7, 8, 9, -1]], np.int16), Encoding("semantic", ids={7: 0, 8: 1}))
    assert label.tolist() == [[[0, 1, 255, 255]]]


def test_negative_ids_can_be_unknown() -> None:
    label = decode(np.array([[-1.0, 2.0, np.nan]]), Encoding("semantic", unknown=[-1]))
    assert label.tolist() == [[[255, 2, 255]]]


@pytest.mark.parametrize(("value", "message"), [(-1, "found -1 stored"), (300, "found 300 stored")])
def test_ids_that_no_class_can_have_are_refused(value: int, message: str) -> None:
    with pytest.raises(DataError, match=f"map.png: expected class ids from 0 to 254, {message}"):
        decode(np.array([[value]], np.int32), Encoding("semantic"), name="map.png")


def test_ids_must_be_whole() -> None:
    with pytest.raises(DataError, match=r"expected whole class ids, found 0\.5"):
        decode(np.array([[0.5]]), Encoding("semantic"))


@pytest.mark.parametrize("number", [np.inf, -np.inf, 1e30])
def test_ids_beyond_all_numbers_are_refused_without_a_warning(number: float) -> None:
    with pytest.raises(DataError, match="expected whole class ids, found"):
        decode(np.array([[number, 1]]), Encoding("semantic"))


def test_numbers_of_sixteen_bits_may_be_stored_high_byte_first() -> None:
    stream = io.BytesIO()
    millimetres = np.array([[0, 258, 4000]], ">u2")
    Image.frombytes("I;16B", (3, 1), millimetres.tobytes()).save(stream, "TIFF")
    label = read_label(stream.getvalue(), Encoding("depth", scale=1e-3), suffix=".tif")
    np.testing.assert_allclose(label.numpy(), [[[0, 0.258, 4]]], rtol=1e-6)


def test_depth_in_millimetres() -> None:
    label = decode(np.array([[0, 1500]], np.uint16), Encoding("depth", scale=1e-3, unknown=[0]))
    assert type(label) is Depth
    assert label.dtype == torch.float32
    assert label[0, 0, 0].isnan()
    assert label[0, 0, 1].item() == pytest.approx(1.5)


def test_disparity_with_an_offset() -> None:
    encoding = Encoding("inverse_depth", scale=1 / 256, offset=-1 / 256, unknown=[0])
    label = decode(np.array([[0, 257]], np.uint16), encoding)
    assert type(label) is InverseDepth
    assert label[0, 0, 0].isnan()
    assert label[0, 0, 1].item() == 1.0


def test_masks_of_whole_numbers_are_shares_of_255_unless_said_otherwise() -> None:
    assert decode(np.array([[0, 255]], np.uint8), Encoding("mask")).tolist() == [[[0.0, 1.0]]]
    assert decode(np.array([[0, 1]], np.uint8), Encoding("mask", scale=1)).tolist() == [[[0.0, 1.0]]]
    assert decode(np.array([[False, True]]), Encoding("mask")).tolist() == [[[0.0, 1.0]]]
    assert decode(np.array([[0.25]]), Encoding("mask")).tolist() == [[[0.25]]]
    assert type(decode(np.array([[0.25]]), Encoding("mask"))) is Mask


def test_colour_coded_normals_become_unit_vectors() -> None:
    stored = np.array([[[127, 127, 0], [255, 127, 127], [0, 0, 0]]], np.uint8)
    label = decode(stored, Encoding("normals", scale=2 / 255, offset=-1, unknown=[0]))
    assert type(label) is Normals
    torch.testing.assert_close(label[:, 0, 0], torch.tensor([0.0, 0.0, -1.0]), atol=0.006, rtol=0)
    torch.testing.assert_close(label[:, 0, 1], torch.tensor([1.0, 0.0, 0.0]), atol=0.006, rtol=0)
    assert label[:, 0, 2].isnan().all()
    torch.testing.assert_close(label[:, 0, :2].norm(dim=0), torch.ones(2))


def test_vectors_without_length_are_unknown() -> None:
    label = decode(np.zeros((1, 1, 3), np.float32), Encoding("normals"))
    assert label.isnan().all()


@pytest.mark.parametrize("order", list(itertools.permutations("xyz")))
@pytest.mark.parametrize("signs", ["+++", "+--", "-+-", "---"])
def test_axes_say_what_each_stored_channel_is(order: tuple[str, ...], signs: str) -> None:
    ours = np.array([0.6, -0.48, -0.64], np.float32)
    factor = {"+": 1, "-": -1}
    stored = [factor[sign] * ours["xyz".index(axis)] for sign, axis in zip(signs, order, strict=True)]
    axes = "".join(sign + axis for sign, axis in zip(signs, order, strict=True))
    label = decode(np.array([[stored]], np.float32), Encoding("normals", axes=axes))
    np.testing.assert_allclose(label[:, 0, 0].numpy(), ours, rtol=1e-6)


@pytest.mark.parametrize("axes", ["xyz", "+x+y", "+x+y+x", "+a+b+c"])
def test_axes_that_are_none_are_refused(axes: str) -> None:
    with pytest.raises(ConfigurationError, match="axes say what each stored channel is"):
        Encoding("normals", axes=axes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "colour"}, "is one of semantic, depth, inverse_depth, normals, mask; got 'colour'"),
        ({"kind": "depth", "scale": 0}, "a number other than 0"),
        ({"kind": "depth", "ids": {1: 2}}, "ids belong to labels of kind semantic, not depth"),
    ],
)
def test_declarations_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Encoding(**options)


MAP = np.array([[0, 1000, 2000], [3000, 4000, 5000]], np.uint16)


def stored_as(suffix: str, folder: Path) -> Path:
    path = folder / f"map{suffix}"
    if suffix == ".npy":
        np.save(path, MAP)
    elif suffix == ".npz":
        np.savez_compressed(path, depth=MAP)
    elif suffix == ".mat":
        savemat(path, {"depth": MAP}, do_compression=True)
    else:
        Image.fromarray(MAP).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".npy", ".npz", ".mat"])
@pytest.mark.parametrize("from_bytes", [False, True])
def test_every_format_gives_the_same_label(suffix: str, from_bytes: bool, tmp_path: Path) -> None:
    path = stored_as(suffix, tmp_path)
    encoding = Encoding("depth", scale=1e-3, unknown=[0])
    source = path.read_bytes() if from_bytes else path
    label = read_label(source, encoding, suffix=suffix if from_bytes else "", size=(2, 3))
    expected = torch.tensor([[[torch.nan, 1, 2], [3, 4, 5]]])
    torch.testing.assert_close(label.as_subclass(torch.Tensor), expected, equal_nan=True)


def test_lossless_webp_of_colour_coded_normals(tmp_path: Path) -> None:
    vectors = np.full((4, 4, 3), (127, 127, 0), np.uint8)
    Image.fromarray(vectors).save(tmp_path / "n.webp", lossless=True)
    label = read_label(tmp_path / "n.webp", Encoding("normals", scale=2 / 255, offset=-1))
    assert (label[2] < -0.99).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"no picture", "not a PNG"),
        ("a.npy", b"no array", "not an array file"),
        ("a.npz", b"no archive", "not an array file"),
        ("a.mat", b"no matrix" * 99, "not a MATLAB file"),
        ("a.mat", b"", "not a MATLAB file"),
        ("a.exr", b"", "expected a file ending in .png"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_its_name(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_label(tmp_path / name, Encoding("depth"))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz", ".mat"])
def test_a_file_that_is_not_there_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"gone{suffix}: no such file"):
        read_label(tmp_path / f"gone{suffix}", Encoding("depth"))


def test_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected 4x4 \(height x width\), found 2x3"):
        read_label(stored_as(".npy", tmp_path), Encoding("depth"), size=(4, 4))


def test_a_wrong_number_of_channels_is_refused() -> None:
    with pytest.raises(DataError, match=r"expected \[H, W, 3\] for a label of kind normals"):
        decode(np.zeros((4, 5)), Encoding("normals"))
    with pytest.raises(
        DataError, match=r"expected \[H, W\] for a label of kind depth, found the shape \(4, 5, 3\)"
    ):
        decode(np.zeros((4, 5, 3)), Encoding("depth"))


def test_an_archive_of_several_arrays_asks_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", depth=MAP, other=MAP)
    with pytest.raises(DataError, match="holds depth, other; say which as the field's member"):
        read_label(tmp_path / "two.npz", Encoding("depth"))
    assert read_label(tmp_path / "two.npz", Encoding("depth", member="other")).shape == (1, 2, 3)
