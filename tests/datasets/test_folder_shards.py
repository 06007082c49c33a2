"""Shards are read in any order, wherever they lie, as the webdataset library has them; none can do harm."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from tests.layouts import folder as layouts
from tests.layouts.folder import FIELDS, members, png, put, tar

from plait.data.folder import shards
from plait.data.folder.dataset import Folder
from plait.data.folder.shards import expanded, find_shards, index_of, key_and_ending
from plait.errors import ConfigurationError, DataError, MissingExtraError

PICTURE = png(np.zeros((4, 6, 3), np.uint8))
DEPTH = png(np.full((4, 6), 2000, np.uint16))
MILLIMETRES: dict[str, Any] = {"depth": {"scale": 0.001}}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "PAUSES", (0.0, 0.0))


@pytest.fixture
def memory() -> Iterator[Any]:
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()


def opened(root: Path | None, where: Any, split: str = "train", **options: Any) -> Folder:
    told: dict[str, Any] = {"fields": MILLIMETRES, "splits": {}, **options}
    return Folder(split, list(told["fields"]), root, shards=where, **told)


def contents(dataset: Folder) -> dict[str, torch.Tensor]:
    return {dataset.id(place): dataset[place].image for place in range(len(dataset))}


# --- which shards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "count", "last"),
    [
        ("a-{000..011}.tar", 12, "a-011.tar"),
        ("a-{8..11}.tar", 4, "a-11.tar"),
        ("{x,y}/a-{0..1}.tar", 4, "y/a-1.tar"),
        ("a.tar", 1, "a.tar"),
    ],
)
def test_braces_stand_for_what_shells_make_of_them(pattern: str, count: int, last: str) -> None:
    found = expanded(pattern)
    assert len(found) == len(set(found)) == count
    assert found[-1] == last


@pytest.mark.parametrize(
    "where", [".", "*.tar", "s-{0..1}.tar", ["s-0.tar", "s-1.tar"], "{absolute}/s-?.tar"]
)
def test_shards_are_named_in_many_ways(where: Any, tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / f"s-{number}.tar", tar({"a.png": PICTURE}))
    if isinstance(where, str):
        where = where.replace("{absolute}", str(tmp_path))
    assert opened(tmp_path, where, fields={}).ids == ["s-0/a", "s-1/a"]


def test_patterns_without_end_are_refused() -> None:
    for pattern in ("{0..99999999}", "{0..999}" * 3, "{5..1}"):
        with pytest.raises(ConfigurationError, match="stands for"):
            expanded(pattern)


@pytest.mark.parametrize(
    "place", ["pipe:cat a.tar", "simplecache::https://h/a.tar", "zip://a.tar::b.zip", "git://a.tar", "PIPE:x"]
)
def test_what_may_start_programs_is_not_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not read from"):
        opened(tmp_path, place)


def test_shards_that_are_not_there_are_named(tmp_path: Path, memory: Any) -> None:
    with pytest.raises(DataError, match=r"b-\*.tar: expected a shard"):
        opened(tmp_path, "b-*.tar")
    with pytest.raises(DataError, match=r"memory://set/a.tar: no such shard"):
        opened(None, "memory://set/a.tar")
    with pytest.raises(DataError, match=r"memory://set/\*.tar: expected shards"):
        opened(None, "memory://set/")


def test_a_store_whose_package_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingExtraError, match=r"s3://set/a\.tar: Install s3fs"):
        opened(None, "s3://set/a.tar")


# --- samples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("member", "key", "ending"),
    [
        ("000.jpg", "000", "jpg"),
        ("./a/000.depth.PNG", "a/000", "depth.png"),
        ("a.b/000.depth", "a.b/000", "depth"),
    ],
)
def test_a_member_s_name_is_cut_as_webdataset_cuts_it(member: str, key: str, ending: str) -> None:
    from webdataset.tariterators import base_plus_ext

    assert key_and_ending(member) == (key, ending)
    assert base_plus_ext(member.removeprefix("./")) == (
        key,
        member.removeprefix("./").removeprefix(f"{key}."),
    )


def test_members_that_are_of_no_sample_are_left_out(tmp_path: Path) -> None:
    others = {"README": b"x", ".hidden": b"x", "__meta__.json": b"{}", "a.json": b"{}", "a.cls": b"1"}
    put(tmp_path / "s.tar", tar({"a.jpg": PICTURE, **others}))
    assert opened(tmp_path, "s.tar", fields={}).ids == ["s/a"]


def test_a_field_without_an_ending_is_known_by_its_content(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.save(array, np.full((4, 6), 2, np.float32))
    held = {"a.image": PICTURE, "a.depth": DEPTH, "b.image": PICTURE, "b.depth": array.getvalue()}
    put(tmp_path / "s.tar", tar(held))
    dataset = opened(tmp_path, "s.tar", fields={"depth": {"scale": 0.001}})
    assert dataset[0].targets["depth"].unique().tolist() == [2.0]
    assert dataset[1].targets["depth"].unique().tolist() == pytest.approx([0.002])


def test_endings_are_named_where_they_are_plain(tmp_path: Path) -> None:
    put(tmp_path / "s.tar", tar({"a.jpg": PICTURE, "a.png": DEPTH}))
    told = {"depth": {"source": "png", "scale": 0.001}}
    for image in (None, "jpg"):
        dataset = opened(tmp_path, "s.tar", fields=told, image=image)
        assert dataset[0].targets["depth"].unique().tolist() == [2.0]
    with pytest.raises(DataError, match=r"a has image twice, as a.jpg and a.png"):
        opened(tmp_path, "s.tar", fields={})


def test_members_of_a_sample_need_not_lie_together(tmp_path: Path) -> None:
    far = {"filler.bin": bytes(300_000)}
    held = {"a.png": PICTURE, "b.png": PICTURE, **far, "b.depth.png": DEPTH, "a.depth.png": DEPTH}
    put(tmp_path / "s.tar", tar(held))
    dataset = opened(tmp_path, "s.tar")
    assert dataset.ids == ["s/a", "s/b"]
    for place in range(2):
        assert dataset[place].targets["depth"].unique().tolist() == [2.0]


def test_a_damaged_member_is_named_with_its_shard(tmp_path: Path) -> None:
    put(tmp_path / "s.tar", tar({"x/a.png": PICTURE, "x/a.depth.png": DEPTH[:40]}))
    with pytest.raises(DataError, match=r"s.tar \[x/a.depth.png\]"):
        opened(tmp_path, "s.tar")[0]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"a.depth.png": DEPTH}, r"the sample a has depth but no picture"),
        ({"a.json": b"{}"}, r"expected pictures as key.jpg"),
        ({"a.png": PICTURE, "a.depth.png": DEPTH, "a.depth.npy": b""}, r"has depth twice"),
    ],
)
def test_samples_that_cannot_be_are_named(held: dict[str, bytes], said: str, tmp_path: Path) -> None:
    put(tmp_path / "s.tar", tar(held))
    with pytest.raises(DataError, match=said):
        opened(tmp_path, "s.tar")


def test_two_shards_of_one_name_are_refused(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        put(tmp_path / folder / "s.tar", tar({"a.png": PICTURE}))
    with pytest.raises(DataError, match="has the name of"):
        opened(tmp_path, "{x,y}/s.tar", fields={})


def test_a_split_s_shards_are_looked_at_alone(tmp_path: Path) -> None:
    root = layouts.shards(tmp_path)
    put(root / "test.tar", "no tar")
    assert len(Folder("val", (), root)) == 2
    with pytest.raises(DataError, match=r"test.tar: not a tar file"):
        Folder("test", (), root)


def test_shares_of_shards_keep_a_shard_together_by_group(tmp_path: Path) -> None:
    for number in range(20):
        put(tmp_path / f"{number}.tar", tar({"a.png": PICTURE, "b.png": PICTURE}))
    parts = [
        opened(tmp_path, ".", split, fields={}, splits={"val": 0.5}, group="/") for split in ("train", "val")
    ]
    shards_of = [{name.partition("/")[0] for name in part.ids} for part in parts]
    assert not shards_of[0] & shards_of[1]
    assert sum(map(len, parts)) == 40


def test_a_copy_in_another_process_reads_the_same(tmp_path: Path) -> None:
    dataset = Folder("train", list(FIELDS), layouts.shards(tmp_path))
    copy: Folder = pickle.loads(pickle.dumps(dataset))
    for name, image in contents(copy).items():
        assert torch.equal(image, contents(dataset)[name])


# --- remote ---------------------------------------------------------------------------------------------


def test_a_remote_set_is_the_local_one(tmp_path: Path, memory: Any) -> None:
    local = Folder("train", list(FIELDS), layouts.shards(tmp_path))
    for path in tmp_path.glob("*.tar"):
        memory.pipe_file(f"/set/{path.name}", path.read_bytes())
    for where in ("memory://set/train-{000..001}.tar", "memory://set/train-*.tar"):
        remote = Folder("train", list(FIELDS), fields=FIELDS, shards={"train": where}, splits={})
        assert remote.ids == local.ids
        for place in range(len(local)):
            ours, theirs = remote[place], local[place]
            assert torch.equal(ours.image, theirs.image)
            assert set(ours.targets) == set(theirs.targets)


def test_a_sample_is_read_by_ranges_alone(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        f"{n}.{end}": content for n in range(50) for end, content in (("png", PICTURE), ("depth.png", DEPTH))
    }
    memory.pipe_file("/set/a.tar", tar(held))
    dataset = opened(None, "memory://set/a.tar")
    asked: list[tuple[int, int]] = []
    cat_file = type(memory).cat_file

    def watched(self: Any, path: str, start: int, end: int) -> bytes:
        asked.append((start, end))
        content: bytes = cat_file(self, path, start=start, end=end)
        return content

    monkeypatch.setattr(type(memory), "cat_file", watched)
    assert dataset[17].id == "a/17"
    assert len(asked) == 1
    assert asked[0][1] - asked[0][0] < 4000


def test_a_busy_store_is_asked_again_and_a_broken_one_named(
    memory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe_file("/set/a.tar", tar({"a.png": PICTURE}))
    dataset = opened(None, "memory://set/a.tar", fields={})
    assert dataset.ids == ["a/a"]
    failures = [OSError("busy"), OSError("busy")]
    cat_file = type(memory).cat_file

    def busy(self: Any, path: str, start: int, end: int) -> bytes:
        if failures:
            raise failures.pop()
        content: bytes = cat_file(self, path, start=start, end=end)
        return content

    monkeypatch.setattr(type(memory), "cat_file", busy)
    assert dataset[0].image.shape == (3, 4, 6)
    failures += [OSError("busy")] * 3
    with pytest.raises(DataError, match=r"memory://set/a.tar: cannot be read \(busy\)"):
        dataset[0]


def test_passwords_and_signatures_are_not_in_messages() -> None:
    assert shards.title("https://me:secret@host/a.tar?signature=1") == "https://host/a.tar"


def test_a_server_over_http_gives_the_same(tmp_path: Path) -> None:
    """A server of this process, on this machine: with parts of files, and without."""
    import http.server
    import threading

    content = tar({"a.png": PICTURE, "a.depth.png": DEPTH, "filler.bin": bytes(3_000_000), "b.png": PICTURE})

    class Server(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            part, status = content, 200
            if self.headers.get("Range") and "whole" not in self.path:
                first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
                part, status = content[int(first) : int(last) + 1], 206
            self.send_response(status)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("ETag", '"1"')
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            self.end_headers()
            if body:
                self.wfile.write(part)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            dataset = opened(None, f"{url}/a.tar")
            assert dataset.ids == ["a/a", "a/b"]
            assert dataset[0].targets["depth"].unique().tolist() == [2.0]
            with pytest.raises(DataError, match=r"whole/a.tar.*"):
                opened(None, f"{url}/whole/a.tar")[0]
        finally:
            server.shutdown()


# --- the index ------------------------------------------------------------------------------------------


def test_a_shard_s_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "s.tar", tar({"a.png": PICTURE}))
    first = index_of(str(path))

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(shards, "scan", never)
    again = index_of(str(path))
    assert list(again.names) == list(first.names)
    np.testing.assert_array_equal(again.offsets, first.offsets)


def test_a_changed_shard_and_a_damaged_index_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = put(tmp_path / "s.tar", tar({"a.png": PICTURE}))
    assert list(index_of(str(path)).names) == ["a.png"]
    put(path, tar({"b.png": PICTURE, "c.png": PICTURE}))
    assert list(index_of(str(path)).names) == ["b.png", "c.png"]
    for kept in (tmp_path / "cache" / "plait" / "shards").glob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:50])
    assert list(index_of(str(path)).names) == ["b.png", "c.png"]


def test_a_shard_that_changes_after_it_was_opened_is_named(tmp_path: Path) -> None:
    path = put(tmp_path / "s.tar", tar({"a.png": PICTURE}))
    dataset = opened(tmp_path, "s.tar", fields={})
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"s.tar: expected \d+ bytes .* got 0"):
        dataset[0]


def test_without_a_cache_folder_shards_are_read_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "cache", "a file, no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    put(tmp_path / "s.tar", tar({"a.png": PICTURE}))
    assert opened(tmp_path, "s.tar", fields={}).ids == ["s/a"]


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_every_kind_of_tar_are_read(style: int, tmp_path: Path) -> None:
    name = f"{'folder/' * 16}é.png" if style != tarfile.USTAR_FORMAT else f"{'folder/' * 16}e.png"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=style) as file:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        info = tarfile.TarInfo(name)
        info.size = len(PICTURE)
        file.addfile(info, io.BytesIO(PICTURE))
    put(tmp_path / "s.tar", stream.getvalue())
    dataset = opened(tmp_path, "s.tar", fields={})
    assert dataset.ids == [f"s/{name.removesuffix('.png')}"]
    assert dataset[0].image.shape == (3, 4, 6)


# --- hostile and damaged --------------------------------------------------------------------------------


def special(change: Callable[[tarfile.TarInfo], None]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        info = tarfile.TarInfo("a.png")
        change(info)
        file.addfile(info)
    return stream.getvalue()


def link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"


def hard_link(info: tarfile.TarInfo) -> None:
    info.type, info.linkname = tarfile.LNKTYPE, "b.png"


def device(info: tarfile.TarInfo) -> None:
    info.type = tarfile.CHRTYPE


def climbing(info: tarfile.TarInfo) -> None:
    info.name = "../../a.png"


def absolute(info: tarfile.TarInfo) -> None:
    info.name = "/etc/a.png"


def broken_line(info: tarfile.TarInfo) -> None:
    info.name = "a\nb.png"


@pytest.mark.parametrize("change", [link, hard_link, device, climbing, absolute, broken_line])
def test_members_that_no_set_of_samples_has_are_refused(
    change: Callable[[tarfile.TarInfo], None], tmp_path: Path
) -> None:
    path = put(tmp_path / "s.tar", special(change))
    with pytest.raises(DataError, match=r"s.tar: member"):
        index_of(str(path))


def test_a_member_that_claims_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.png")
    info.size = 2**40
    path = put(tmp_path / "s.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(DataError, match=r"s.tar: member 'a.png' claims 1,099,511,627,776 bytes"):
        index_of(str(path))


def test_a_name_that_claims_to_be_huge_is_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**35
    path = put(tmp_path / "s.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(
        DataError, match=r"s.tar: not a tar file, or damaged \(a header of 34359738368 bytes\)"
    ):
        index_of(str(path))


@pytest.mark.parametrize("keep", [100, 600, 1024, -1024 - 512])
def test_a_shard_cut_short_is_named(keep: int, tmp_path: Path) -> None:
    whole = tar({"a.png": PICTURE, "b.png": PICTURE})
    end = whole.rindex(PICTURE[-8:]) + 512  # the rest is filled with zeros
    path = put(tmp_path / "s.tar", whole[: end // 512 * 512][:keep])
    with pytest.raises(DataError, match=r"s.tar: "):
        index_of(str(path))


def test_a_damaged_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    whole = bytearray(tar({"a.png": PICTURE, "b.png": PICTURE}))
    whole[whole.index(b"b.png")] ^= 1
    with pytest.raises(DataError, match=r"no end mark after byte 1024"):
        index_of(str(put(tmp_path / "s.tar", bytes(whole))))


def test_a_compressed_shard_is_refused_with_the_way_out(tmp_path: Path) -> None:
    put(tmp_path / "s.tar.gz", gzip.compress(tar({"a.png": PICTURE})))
    for where in ("s.tar.gz", "."):
        with pytest.raises(DataError, match=r"s.tar.gz: a .*compressed tar .* unpack it"):
            opened(tmp_path, where)


@pytest.mark.parametrize("content", [b"", b"no tar" * 400, bytes(1024)])
def test_what_is_no_tar_is_named(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"s.tar: (not a tar|holds no files)"):
        opened(tmp_path, str(put(tmp_path / "s.tar", content)))


# --- the webdataset library -----------------------------------------------------------------------------


def test_shards_written_by_webdataset_are_read(tmp_path: Path) -> None:
    import webdataset

    depths = [np.full((4, 6), 2.0 + n, np.float32) for n in range(5)]
    pattern = str(tmp_path / "w-%06d.tar")
    with webdataset.ShardWriter(pattern, maxcount=2, verbose=0) as writer:
        for number, depth in enumerate(depths):
            picture = np.full((4, 6, 3), 10 * number, np.uint8)
            ids = np.full((4, 6), number, np.uint8)
            writer.write(
                {"__key__": f"k{number}", "png": picture, "depth.npy": depth, "seg.png": ids, "cls": 3}
            )
    told = {"depth": {}, "semantic": {"source": "seg"}}
    dataset = opened(tmp_path, "w-{000000..000002}.tar", fields=told)
    assert [name.partition("/")[2] for name in dataset.ids] == [f"k{n}" for n in range(5)]
    for number, depth in enumerate(depths):
        sample = dataset[number]
        np.testing.assert_array_equal(sample.targets["depth"][0].numpy(), depth)
        assert sample.targets["semantic"].unique().tolist() == [number]
        assert sample.image.unique().tolist() == [10 * number]


def test_webdataset_reads_the_shards_of_the_tests(tmp_path: Path) -> None:
    from webdataset.tariterators import group_by_keys, tar_file_expander

    path = put(tmp_path / "s.tar", tar(members(layouts.TRAIN)))
    with path.open("rb") as stream:
        theirs = list(group_by_keys(tar_file_expander([{"url": str(path), "stream": stream}])))
    ours = opened(tmp_path, "s.tar", fields=FIELDS)
    assert [f"s/{sample['__key__']}" for sample in theirs] == ours.ids
    for place, sample in enumerate(theirs):
        there = {ending.partition(".")[0] for ending in sample if ending.endswith(".png")}
        assert there == ours.present(place)
        with Image.open(io.BytesIO(sample["png"])) as image:
            np.testing.assert_array_equal(ours[place].image.permute(1, 2, 0).numpy(), image.convert("RGB"))


def test_stars_in_the_root_are_no_pattern(tmp_path: Path) -> None:
    root = tmp_path / "my [1] *set"
    root.mkdir()
    (root / "a.tar").touch()
    assert find_shards("*.tar", root) == [str(root / "a.tar")]


def test_find_shards_gives_each_once(tmp_path: Path) -> None:
    put(tmp_path / "s.tar", tar({"a.png": PICTURE}))
    assert find_shards(["s.tar", "*.tar", "."], tmp_path) == [str(tmp_path / "s.tar")]
