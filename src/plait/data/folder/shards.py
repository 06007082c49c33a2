"""WebDataset shards: tar files, here or behind a URL, whose samples are read in any order.

A tar has no table of contents. One is made by reading its headers once and kept in the cache folder, so that
a sample is read by its place: the order of samples, resuming and workers are those of any other set.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import re
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from plait.data.encodings import PICTURES, SUFFIXES
from plait.data.files import DAMAGED, MAX_PIXELS, cache_folder, write_atomically
from plait.data.folder.source import Stored
from plait.data.folder.splits import refuse_outside
from plait.errors import ConfigurationError, DataError, MissingExtraError

Ints = NDArray[np.int64]

SCHEMES = ("https", "http", "s3", "gs", "gcs", "az", "abfs", "abfss", "hf", "memory", "file")
"""What a shard's URL may begin with: stores of files, nothing that starts a program or unpacks on the way."""

COMPRESSED: Mapping[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
VERSION = 1
"""Part of the key of every kept index: raise it when what is kept changes."""

MARKS = ("etag", "last-modified", "lastmodified", "last_modified", "mtime", "created", "md5hash", "checksum")
"""What stores say of a file that changes with its content."""

MAX_SHARDS = 1_000_000
MAX_MEMBERS = 10_000_000
MAX_MEMBER_BYTES = 16 * MAX_PIXELS
MAX_HEADER_BYTES = 1 << 20
"""Larger members, and longer names, are refused before they are read."""

GAP = 1 << 16
"""Members of a sample that lie this close are read in one request."""

PAUSES = (1.0, 4.0)
"""Seconds to wait before asking a remote store again."""


# --- which shards ---------------------------------------------------------------------------------------


def expanded(pattern: str) -> list[str]:
    """Braces written out, as shells do.

    >>> expanded("a-{08..10}.tar"), expanded("{x,y}/b.tar")
    (['a-08.tar', 'a-09.tar', 'a-10.tar'], ['x/b.tar', 'y/b.tar'])

    Raises:
        ConfigurationError: If it stands for too many.
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    run = re.fullmatch(r"(\d+)\.\.(\d+)", found[1])
    words: Sequence[str]
    if run is not None:
        first, last = int(run[1]), int(run[2])
        if not 0 <= last - first < MAX_SHARDS:
            raise ConfigurationError(f"shards: {found[0]} stands for no shards, or for too many")
        width = len(run[1]) if run[1].startswith("0") else 1
        words = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        words = found[1].split(",")
    rests = expanded(pattern[found.end() :])
    if len(words) * len(rests) > MAX_SHARDS:
        raise ConfigurationError(f"shards: {pattern!r} stands for more than {MAX_SHARDS:,} shards")
    return [f"{pattern[: found.start()]}{word}{rest}" for word in words for rest in rests]


def scheme_of(place: str) -> str:
    """What a URL begins with; empty for a path.

    Raises:
        ConfigurationError: If it is none that shards are read from.
    """
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):", place)
    if found is None and "::" not in place:
        return ""
    scheme = found[1].lower() if found else "::"
    if scheme not in SCHEMES or "::" in place:
        raise ConfigurationError(
            f"shards: {scheme!r} is not read from, because it may start programs or unpack on the way; "
            f"give paths, or URLs of {', '.join(SCHEMES)}"
        )
    return scheme


def title(place: str) -> str:
    """A shard's name in messages: without passwords and signatures of its URL.

    >>> title("https://me:secret@host/a.tar?signature=1")
    'https://host/a.tar'
    """
    if not scheme_of(place):
        return place
    return re.sub(r"//[^/@]*@", "//", place.partition("?")[0])


def find_shards(patterns: str | Sequence[str], root: Path) -> list[str]:
    """The shards that patterns stand for, as paths and URLs.

    Args:
        patterns: Paths (relative ones are below ``root``) or URLs; with braces and stars, or of a folder.
        root: The folder that relative paths are below.

    Raises:
        ConfigurationError: If one cannot be a place of shards.
        DataError: If nothing is there.
    """
    found: list[str] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        for place in expanded(pattern):
            found += remote_shards(place) if scheme_of(place) else local_shards(place, root)
    found = list(dict.fromkeys(found))
    if not found:
        raise DataError(f"shards: {patterns!r} stands for no shard")
    return found


def local_shards(place: str, root: Path) -> list[str]:
    """The shards of a path, of a folder, or of a path with stars."""
    path = root / place
    if path.is_dir():
        held = sorted(path.glob("*.tar"))
        packed = sorted(path.glob("*.tar.*")) or sorted(path.glob("*.tgz"))
        if not held and packed:
            raise DataError(packed_message(str(packed[0]), "compressed"))
    elif path.exists():
        held = [path]
    else:
        found = glob.glob(place, root_dir=root)  # noqa: PTH207  the stars may be in any part
        held = sorted(root / name for name in found)
    if not held:
        raise DataError(f"{path}: expected a shard, or a folder of *.tar, found none there")
    return [str(path) for path in held]


def remote_shards(place: str) -> list[str]:
    """The shards of a URL, of one that ends in ``/``, or of one with stars."""
    if place.endswith("/"):
        place += "*.tar"
    if "*" not in place:
        return [place]
    store, path = opened_store(place)
    held = sorted(str(store.unstrip_protocol(found)) for found in asked(place, lambda: store.glob(path)))
    if not held:
        raise DataError(
            f"{title(place)}: expected shards there, found none; name them one by one, or by braces"
        )
    return held


def opened_store(place: str) -> tuple[Any, str]:
    """Fsspec's file system of a URL, and the path in it.

    Raises:
        MissingExtraError: If the package for such URLs is not installed.
    """
    import fsspec

    try:
        store, path = fsspec.core.url_to_fs(place)
    except ImportError as error:
        raise MissingExtraError(f"{title(place)}: {error}; install that package with pip") from error
    return store, str(path)


def asked(place: str, ask: Any) -> Any:
    """What a remote store answers, asked again where it may have been busy.

    Raises:
        DataError: If it does not answer in the end; says why.
    """
    for pause in (*PAUSES, None):
        try:
            return ask()
        except FileNotFoundError as error:
            raise DataError(f"{title(place)}: no such shard; is its name right?") from error
        except Exception as error:  # each store has its own errors, and none of them is ours
            if pause is None:
                said = " ".join(str(error).split())[:200] or type(error).__name__
                raise DataError(
                    f"{title(place)}: cannot be read ({said}); is it there, and may you read it?"
                ) from error
            time.sleep(pause)
    raise AssertionError


def packed_message(name: str, how: str) -> str:
    """Why a compressed shard cannot be used."""
    return (
        f"{name}: a {how} tar cannot be read from the middle; unpack it to a plain .tar once, for "
        f"instance with gunzip (pictures are compressed already)"
    )


# --- what is in a shard ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """A shard's members.

    Attributes:
        names: As stored.
        offsets: Where each begins.
        sizes: Its bytes.
    """

    names: Sequence[str]
    offsets: Ints
    sizes: Ints

    def packed(self) -> bytes:
        """The bytes that are kept."""
        stream = io.BytesIO()
        names = np.frombuffer("\n".join(self.names).encode(), np.uint8)
        np.savez_compressed(stream, names=names, offsets=self.offsets, sizes=self.sizes)
        return stream.getvalue()

    @classmethod
    def unpacked(cls, content: bytes) -> Index:
        """The index that bytes hold; ``ValueError`` or ``KeyError`` if they are damaged."""
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            names = held["names"].tobytes().decode().split("\n")
            made = cls(names, held["offsets"], held["sizes"])
        if not len(made.names) == len(made.offsets) == len(made.sizes):
            raise ValueError("an index of another length")
        return made


def index_of(place: str) -> Index:
    """A shard's members, from the cache folder or else from the shard, which is then kept.

    Raises:
        DataError: If it is damaged, compressed, or holds what no set of samples has.
    """
    state = state_of(place)
    kept = None
    if state is not None:
        key = hashlib.sha256(json.dumps([VERSION, title(place), state]).encode()).hexdigest()[:32]
        kept = cache_folder() / "shards" / f"{key}.npz"
        with suppress(OSError, ValueError, KeyError, *DAMAGED):
            return Index.unpacked(kept.read_bytes())
    index = scanned(place)
    if kept is not None:
        with suppress(OSError):  # then it is scanned again next time
            write_atomically(kept, index.packed())
    return index


def state_of(place: str) -> dict[str, str] | None:
    """What changes when a shard is written again; None if its store does not tell."""
    if not scheme_of(place):
        try:
            state = Path(place).stat()
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error.strerror or error})") from error
        return {
            "path": str(Path(place).resolve()),
            "size": str(state.st_size),
            "time": str(state.st_mtime_ns),
        }
    store, path = opened_store(place)
    info = asked(place, lambda: store.info(path))
    told = {key.lower(): str(value) for key, value in info.items() if key.lower() in MARKS and value}
    return {"size": str(info.get("size")), **told} if told else None


def scanned(place: str) -> Index:
    """A shard's members, from its headers; what lies between them is skipped."""
    if not scheme_of(place):
        try:
            with Path(place).open("rb") as stream:
                return scan(stream, place)
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error.strerror or error})") from error
    store, path = opened_store(place)

    def ask() -> Index | DataError:
        with store.open(path, "rb", block_size=1 << 20) as stream:
            try:
                return scan(stream, title(place))
            except DataError as error:  # of what is in it: asking again would not help
                return error

    found = asked(place, ask)
    if isinstance(found, DataError):
        raise found
    return cast("Index", found)


class Bounded:
    """A stream of which nothing long is read: headers are short, whatever they claim."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.seek = stream.seek
        self.tell = stream.tell

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self.stream.read(count)


def scan(stream: IO[bytes], name: str) -> Index:
    """The members of an open tar.

    Raises:
        DataError: If it is no tar, compressed, cut short, or holds links, devices, climbing names, or members
            beyond the limits.
    """
    start = stream.read(8)
    stream.seek(0)
    for magic, how in COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(packed_message(name, f"{how}-compressed"))
    names: list[str] = []
    offsets: list[int] = []
    sizes: list[int] = []
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", Bounded(stream)), mode="r:") as tar:
            for info in members(tar):
                if info.isdir():
                    continue
                check_member(info, name)
                names.append(info.name)
                offsets.append(info.offset_data)
                sizes.append(info.size)
                if len(names) > MAX_MEMBERS:
                    raise DataError(f"{name}: more than {MAX_MEMBERS:,} members; make smaller shards")
            stream.seek(tar.offset)
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise DataError(
                    f"{name}: has no end mark after byte {tar.offset}: it is cut short or damaged; get it "
                    f"again"
                )
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"{name}: not a tar file, or damaged ({error}); get it again") from error
    if not names:
        raise DataError(f"{name}: holds no files")
    return Index(names, np.asarray(offsets, np.int64), np.asarray(sizes, np.int64))


def members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, none of them kept."""
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        yield info


def check_member(info: tarfile.TarInfo, name: str) -> None:
    """Raises :class:`DataError` for what no set of samples holds."""
    if not info.isreg() or info.issparse():
        raise DataError(
            f"{name}: member {info.name!r} is a link, a device or a sparse file; shards hold plain files"
        )
    refuse_outside(info.name, f"{name}: member")
    if "\n" in info.name:
        raise DataError(f"{name}: member {info.name!r} has a line break in its name")
    if not 0 <= info.size <= MAX_MEMBER_BYTES:
        raise DataError(
            f"{name}: member {info.name!r} claims {info.size:,} bytes, more than the limit of "
            f"{MAX_MEMBER_BYTES:,}; nothing of it was read"
        )


# --- samples --------------------------------------------------------------------------------------------


def key_and_ending(member: str) -> tuple[str, str] | None:
    """What a member's name says: its sample, and what it is of it; None if it is of no sample.

    The name is cut at the first dot after the last slash, as the webdataset library does.

    >>> key_and_ending("./a/007.depth.PNG"), key_and_ending("README")
    (('a/007', 'depth.png'), None)
    """
    member = member.removeprefix("./")
    folder, slash, last = member.rpartition("/")
    key, dot, ending = last.partition(".")
    if not dot or not key or re.match(r"__[^/]*__($|/)", member):
        return None
    return f"{folder}{slash}{key}", ending.lower()


def is_of(ending: str, source: str, suffixes: Sequence[str]) -> bool:
    """Whether a member of this ending holds a field: ``depth`` is in ``key.depth`` and ``key.depth.png``."""
    return ending == source or (ending.startswith(f"{source}.") and ending[len(source) :] in suffixes)


@dataclass(frozen=True)
class Shards:
    """Samples that lie in tar files.

    Attributes:
        places: Paths and URLs of the shards.
        fields: ``image``, then the label fields: the columns of the arrays below.
        ids: As :class:`plait.data.folder.source.Source`: the shard's name, and the key in it.
        shard: Which shard each sample is in, ``[N]``.
        offsets: Where the member of each field begins, ``[N, F]``.
        sizes: Its bytes, ``[N, F]``; -1 where a sample lacks a field.
        endings: Its ending, a place in ``known_endings``, ``[N, F]``.
        known_endings: The endings of all members.
        splits: As ``Source``.
        groups: As ``Source``.
    """

    places: Sequence[str]
    fields: Sequence[str]
    ids: Sequence[str]
    shard: Ints
    offsets: Ints
    sizes: Ints
    endings: Ints
    known_endings: Sequence[str]
    splits: Sequence[str] | None = None
    groups: Sequence[str] | None = None

    def has(self, field: str, place: int) -> bool:
        return bool(self.sizes[place, self.fields.index(field)] >= 0)

    def read(self, place: int, fields: Sequence[str]) -> dict[str, Stored]:
        columns = {field: self.fields.index(field) for field in fields if self.has(field, place)}
        shard = self.places[self.shard[place]]
        spans = {
            field: (int(self.offsets[place, column]), int(self.sizes[place, column]))
            for field, column in columns.items()
        }
        found = {}
        for field, content in read_spans(shard, spans).items():
            ending = self.known_endings[self.endings[place, columns[field]]]
            suffix = f".{ending.rpartition('.')[2]}"
            found[field] = Stored(
                content, f"{title(shard)} [{self.key(place)}.{ending}]", suffix if suffix in SUFFIXES else ""
            )
        return found

    def key(self, place: int) -> str:
        """The sample's key in its shard."""
        stem = stem_of(self.places[self.shard[place]])
        return self.ids[place].partition(f"{stem}/")[2]

    def state(self) -> str:
        told = [(title(self.places[shard]), state_of(self.places[shard])) for shard in np.unique(self.shard)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    def take(self, places: Sequence[int]) -> Shards:
        chosen = np.asarray(places, np.int64)
        return replace(
            self,
            ids=[self.ids[place] for place in places],
            shard=self.shard[chosen],
            offsets=self.offsets[chosen],
            sizes=self.sizes[chosen],
            endings=self.endings[chosen],
            splits=None if self.splits is None else [self.splits[place] for place in places],
        )


def stem_of(place: str) -> str:
    """A shard's name without folder and ending.

    >>> stem_of("https://host/set/train-000.tar?x=1")
    'train-000'
    """
    return PurePosixPath(title(place)).name.removesuffix(".tar")


def open_shards(places: Mapping[str, Sequence[str]], image: str | None, sources: Mapping[str, str]) -> Shards:
    """The samples of shards, by their indices.

    Args:
        places: The shards of each split; ``""`` where no split is said.
        image: The ending of the pictures, for instance ``rgb.png``; by default an ending of a picture
            (``key.jpg``), or ``image`` with or without one (``key.image.jpg``).
        sources: The ending of each field's members, for instance ``depth`` or ``depth.png``.

    Raises:
        DataError: If a shard cannot be used, has the name of another of its split, holds two members of one
            field of a sample, or labels without a picture.
    """
    shards = [(split, place) for split, held in places.items() for place in held]
    with ThreadPoolExecutor(8) as pool:  # waiting for stores, mostly
        indices = pool.map(index_of, [place for _, place in shards])
        parts = [
            samples_of(index, title(place), image, sources)
            for (_, place), index in zip(shards, indices, strict=True)
        ]
    ids: list[str] = []
    endings: dict[str, int] = {}
    where_from: dict[str, str] = {}
    rows: list[list[tuple[int, int, int]]] = []
    for (split, place), samples in zip(shards, parts, strict=True):
        prefix = "/".join(filter(None, (split, stem_of(place))))
        if prefix in where_from:
            raise DataError(
                f"{title(place)}: has the name of {where_from[prefix]}, so that its samples cannot be "
                f"told apart; rename one"
            )
        where_from[prefix] = title(place)
        for key, held in samples.items():
            ids.append(f"{prefix}/{key}")
            rows.append(
                [
                    (held[f][0], held[f][1], endings.setdefault(held[f][2], len(endings)))
                    if f in held
                    else (0, -1, 0)
                    for f in ("image", *sources)
                ]
            )
    if not ids:
        asked_for = f"key.{image}" if image else "key.jpg, key.png or key.image"
        raise DataError(
            f"{title(shards[0][1])}: expected pictures as {asked_for}, found none; name their ending with "
            f"image"
        )
    table = np.asarray(rows, np.int64)
    counts = [len(samples) for samples in parts]
    said = [split for (split, _), count in zip(shards, counts, strict=True) for _ in range(count)]
    return Shards(
        [place for _, place in shards],
        ("image", *sources),
        ids,
        np.repeat(np.arange(len(shards)), counts),
        table[..., 0],
        table[..., 1],
        table[..., 2],
        list(endings) or [""],
        said if any(said) else None,
    )


def samples_of(
    index: Index, name: str, image: str | None, sources: Mapping[str, str]
) -> dict[str, dict[str, tuple[int, int, str]]]:
    """``{key: {field: (offset, bytes, ending)}}`` of a shard, in its order.

    Raises:
        DataError: If two members are of one field of a sample, or a sample with labels has no picture.
    """
    fields_of: dict[str, list[str]] = {}
    samples: dict[str, dict[str, tuple[int, int, str]]] = {}
    for member, offset, size in zip(index.names, index.offsets.tolist(), index.sizes.tolist(), strict=True):
        split_up = key_and_ending(member)
        if split_up is None:
            continue
        key, ending = split_up
        if ending not in fields_of:
            fields_of[ending] = fields_in(ending, image, sources)
        for field in fields_of[ending]:
            held = samples.setdefault(key, {})
            if field in held:
                option = "image" if field == "image" else f"the source of the field {field}"
                raise DataError(
                    f"{name}: the sample {key} has {field} twice, as {key}.{held[field][2]} and "
                    f"{key}.{ending}; name the right ending with {option}"
                )
            held[field] = (offset, size, ending)
    for key, held in samples.items():
        if "image" not in held:
            raise DataError(
                f"{name}: the sample {key} has {', '.join(held)} but no picture; complete it, or name the "
                f"pictures' ending with image"
            )
    return samples


def fields_in(ending: str, image: str | None, sources: Mapping[str, str]) -> list[str]:
    """The fields that a member of this ending holds; without ``image``, a picture is what is no label."""
    held = [field for field, source in sources.items() if is_of(ending, source.lower(), SUFFIXES)]
    if image is not None:
        pictures: Sequence[str] = (image.lower(),)
    else:
        pictures = () if held else ("image", *(suffix[1:] for suffix in PICTURES))
    if any(is_of(ending, picture, PICTURES) for picture in pictures):
        held.append("image")
    return held


def read_spans(place: str, spans: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """Parts of a shard, ``{name: (offset, bytes)}``: in one request where they lie close.

    Raises:
        DataError: If they cannot be read whole.
    """
    first = min(offset for offset, _ in spans.values())
    last = max(offset + size for offset, size in spans.values())
    total = sum(size for _, size in spans.values())
    if last - first <= total + GAP:
        whole = read_range(place, first, last)
        return {name: whole[offset - first : offset - first + size] for name, (offset, size) in spans.items()}
    return {name: read_range(place, offset, offset + size) for name, (offset, size) in spans.items()}


def read_range(place: str, start: int, end: int) -> bytes:
    """The bytes of a shard from ``start`` up to ``end``."""
    if not scheme_of(place):
        try:
            with Path(place).open("rb") as stream:
                stream.seek(start)
                content = stream.read(end - start)
        except OSError as error:
            raise DataError(f"{place}: cannot be read ({error.strerror or error})") from error
    else:
        store, path = opened_store(place)
        content = asked(place, lambda: store.cat_file(path, start=start, end=end))
    if len(content) != end - start:
        raise DataError(
            f"{title(place)}: expected {end - start} bytes from {start} on, got {len(content)}; the shard "
            f"was changed since it was opened, or its server gives no parts of files"
        )
    return content
