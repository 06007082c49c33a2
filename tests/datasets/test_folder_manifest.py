"""A manifest is a table of paths: what it says is taken, and a fault is named with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.layouts import folder as layouts
from tests.layouts.folder import png, put

from plait.data.folder.dataset import Folder
from plait.errors import DataError

DEPTH: dict[str, Any] = {"depth": {"scale": 0.001}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("one", "two", "three"):
        put(tmp_path / "photos" / f"{name}.png", png(np.zeros((4, 6, 3), np.uint8)))
        put(tmp_path / "mm" / f"{name}.png", png(np.full((4, 6), 2000, np.uint16)))
    return tmp_path


def opened(root: Path, text: str, split: str = "train", name: str = "a.csv", **options: Any) -> Folder:
    put(root / name, text)
    told: dict[str, Any] = {"fields": DEPTH, "splits": {}, **options}
    return Folder(split, ["depth"], root, manifest=name, **told)


def test_columns_say_id_split_and_label(root: Path) -> None:
    text = (
        "id,image,depth,split\n1,photos/one.png,mm/one.png,train\n"
        "2,photos/two.png,,train\n3,photos/three.png,mm/one.png,testing\n"
    )
    train, test = opened(root, text), opened(root, text, "test")
    assert (train.ids, test.ids) == (["1", "2"], ["3"])
    assert [train.present(place) for place in (0, 1)] == [{"depth"}, set()]
    assert train[0].targets["depth"].unique().tolist() == [2.0]
    assert "depth" not in train[1].targets


def test_a_group_column_keeps_rows_together(root: Path) -> None:
    for number in range(40):
        put(root / "photos" / f"{number}.png", png(np.zeros((4, 6, 3), np.uint8)))
    text = "image,group\n" + "".join(f"photos/{n}.png,walk {n % 8}\n" for n in range(40))
    told: dict[str, Any] = {"fields": {}, "splits": {"val": 0.5}, "manifest": "a.csv"}
    put(root / "a.csv", text)
    parts = [{int(Path(i).stem) % 8 for i in Folder(s, (), root, **told).ids} for s in ("train", "val")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 8


def test_columns_may_have_other_names(root: Path) -> None:
    told = {"depth": {"scale": 0.001, "source": "depth mm"}}
    dataset = opened(root, '"photo","depth mm"\nphotos/one.png,mm/one.png\n', fields=told, image="photo")
    assert dataset.ids == ["photos/one"]
    assert dataset.present(0) == {"depth"}


def test_absolute_paths_inside_the_root_are_taken(root: Path) -> None:
    dataset = opened(root, f"image,depth\n{root}/photos/one.png,mm/one.png\n")
    assert dataset.ids == ["photos/one"]


def test_without_a_root_paths_are_beside_the_manifest(root: Path) -> None:
    told: dict[str, Any] = {"fields": DEPTH, "splits": {}}
    put(root / "a.jsonl", '{"image": "photos/one.png", "depth": "mm/one.png"}\n{"image": "photos/two.png"}\n')
    found = Folder("train", ["depth"], manifest=root / "a.jsonl", **told)
    assert [found.present(place) for place in (0, 1)] == [{"depth"}, set()]
    assert found[0].targets["depth"].unique().tolist() == [2.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,depth\nphotos/one.png,mm/one.pgn\n", r"line 2, column depth: expected a file ending"),
        ("image,depth\nphotos/one.png,mm/four.png\n", r"line 2, column depth: .*mm/four.png is not there"),
        ("image,depth\nphotos/four.png,\n", r"line 2, column image: .*photos/four.png is not there"),
        ("image,depth\nphotos/one.png,../mm/one.png\n", r"line 2.*leads outside"),
        ("image,depth\nphotos/one.png,/etc/a.png\n", r"line 2.*not inside"),
        ("image,depth\nphotos/one.png,mm\\one.png\n", r"line 2.*leads outside"),
        ("image,depth\n,mm/one.png\n", r"line 2: the column image is empty"),
        ("image,depth\nphotos/one.png\n", r"line 2: expected 2 cells, found 1"),
        (
            "image,depth\nphotos/one.png,\nphotos/one.png,\n",
            r"line 3: .*is already in .*2",
        ),
        ("image,dept\nphotos/one.png,\n", r"no column 'depth' \(did you mean 'dept'\?\)"),
        ("image,depth,depth\nphotos/one.png,,\n", "two columns 'depth'"),
        ("image,depth\n", "holds no samples"),
        ("", "no column 'image'"),
        ('image,depth\n"photos/one.png,\n', "not CSV"),
    ],
)
def test_a_fault_is_named_with_its_row(text: str, said: str, root: Path) -> None:
    with pytest.raises(DataError, match=said) as caught:
        opened(root, text)
    assert str(root / "a.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"image": "photos/one.png"\n', "line 1: not JSON"),
        ("[1]\n", "line 1: expected an object"),
        ('{"image": 1.5, "depth": null}\n', "line 1, column image: expected text, found 1.5"),
        ('{"image": "photos/one.png"}\n', "no column 'depth'"),
    ],
)
def test_a_fault_in_lines_of_json_is_named_with_its_line(text: str, said: str, root: Path) -> None:
    with pytest.raises(DataError, match=said):
        opened(root, text, name="a.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"no parquet", "not a Parquet file"),
        ("a.csv", b"image\n\xff\xfe\n", "cannot be read"),
        ("a.xlsx", b"", "expected a manifest ending in"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(name: str, content: bytes, said: str, root: Path) -> None:
    put(root / name, content)
    with pytest.raises(DataError, match=said) as caught:
        Folder("train", (), root, manifest=name, fields={})
    assert str(root / name) in str(caught.value)


def test_a_manifest_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(DataError, match=r"b.csv: expected a manifest, found nothing"):
        Folder("train", (), root, manifest="b.csv", fields={})


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_link_out_of_the_root_is_refused(
    what: str, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    put(outside / "one.png", png(np.full((4, 6), 2000, np.uint16)))
    if what == "file":
        (root / "mm" / "link.png").symlink_to(outside / "one.png")
    else:
        (root / "linked").symlink_to(outside)
    path = "mm/link.png" if what == "file" else "linked/one.png"
    with pytest.raises(DataError, match=r"line 2.*link that leads outside"):
        opened(root, f"image,depth\nphotos/one.png,{path}\n")


def test_a_link_inside_the_root_is_followed(root: Path) -> None:
    (root / "mm" / "link.png").symlink_to(root / "mm" / "one.png")
    assert opened(root, "image,depth\nphotos/one.png,mm/link.png\n").present(0) == {"depth"}


def test_numbers_in_a_parquet_table_may_be_ids(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    layouts.folders(tmp_path)
    table = [{"id": n, "image": f"images/{name}.png", "extra": 1.5} for n, name in enumerate(layouts.NAMES)]
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "a.parquet")
    dataset = Folder("train", (), tmp_path, manifest="a.parquet", fields={}, splits={})
    assert dataset.ids == [str(n) for n in range(len(layouts.NAMES))]
