"""A manifest: a table of paths, a row a sample, as CSV, Parquet or lines of JSON."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from plait.data.encodings import PICTURES, SUFFIXES
from plait.data.folder.source import Files
from plait.data.folder.splits import refuse_outside, without_ending
from plait.errors import DataError
from plait.registry import nearest

Row = Mapping[str, Any]

ENDINGS = (".csv", ".parquet", ".jsonl")


def open_manifest(path: Path, root: Path, image: str, sources: Mapping[str, str]) -> Files:
    """The samples of a manifest.

    Columns: the picture's path, a path for each field (an empty cell is an absent label), and perhaps ``id``
    (the picture's path without its ending by default), ``split`` and ``group``.

    Args:
        path: The manifest.
        root: What its paths are relative to; they must stay inside.
        image: The column of the pictures.
        sources: The column of each field.

    Raises:
        DataError: If it cannot be read, lacks a column, or names a file that is not there, leads outside or
            has an unknown ending; says the row.
    """
    columns = {"image": image, **sources}
    paths: dict[str, list[str | None]] = {field: [] for field in columns}
    ids: dict[str, str] = {}
    splits: list[str] = []
    groups: list[str] = []
    inside = Inside(root)
    for where, row in rows(path, [*columns.values()]):
        for field, column in columns.items():
            cell = text_of(row.get(column), f"{where}, column {column}")
            if not cell and field == "image":
                raise DataError(f"{where}: the column {column} is empty; a sample needs a picture")
            endings = PICTURES if field == "image" else SUFFIXES
            checked = inside.checked(cell, f"{where}, column {column}", endings) if cell else None
            paths[field].append(checked)
        name = text_of(row.get("id"), f"{where}, column id") or without_ending(str(paths["image"][-1]))
        if name in ids:
            raise DataError(f"{where}: the sample {name!r} is already in {ids[name]}; ids must differ")
        ids[name] = where
        splits.append(text_of(row.get("split"), f"{where}, column split"))
        groups.append(text_of(row.get("group"), f"{where}, column group") or name)
    if not ids:
        raise DataError(f"{path}: holds no samples; write a row for each")
    return Files(
        root,
        list(ids),
        paths,
        splits if any(splits) else None,
        groups if any(group != name for group, name in zip(groups, ids, strict=True)) else None,
    )


def text_of(cell: object, where: str) -> str:
    """A cell as text; empty where there is nothing.

    Raises:
        DataError: If it is neither text nor a whole number.
    """
    if cell is None or cell != cell:  # NaN, which tables write for an empty cell
        return ""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    raise DataError(f"{where}: expected text, found {cell!r}")


class Inside:
    """Which files there are below a folder, each folder in it being listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.absolute = PurePosixPath(Path.cwd() / root)
        self.real = Path(os.path.realpath(root))
        self.listed: dict[str, dict[str, bool]] = {}

    def checked(self, path: str, where: str, endings: Sequence[str]) -> str:
        """A path relative to the folder.

        Raises:
            DataError: If there is no such file, or it lies outside, or is none of a format.
        """
        if path.startswith("/"):
            try:
                path = str(PurePosixPath(path).relative_to(self.absolute))
            except ValueError:
                raise DataError(
                    f"{where}: {path} is not inside {self.absolute}; paths are relative to root, and stay "
                    f"inside it"
                ) from None
        refuse_outside(path, where)
        plain = PurePosixPath(path)
        if plain.suffix.lower() not in endings:
            raise DataError(f"{where}: expected a file ending in {', '.join(endings)}, found {path!r}")
        parent = str(plain.parent)
        if parent not in self.listed:
            self.listed[parent] = self.files_in(parent, where)
        is_link = self.listed[parent].get(plain.name)
        if is_link is None:
            raise DataError(
                f"{where}: {self.root / path} is not there; correct the path, or leave the cell empty if the "
                f"sample has no such label"
            )
        if is_link:
            self.refuse_link(path, where)
        return str(plain)

    def files_in(self, parent: str, where: str) -> dict[str, bool]:
        """The files of a folder, and whether each is a link."""
        folder = self.root / parent
        if not folder.is_dir():
            return {}
        self.refuse_link(parent, where)
        with os.scandir(folder) as entries:
            return {entry.name: entry.is_symlink() for entry in entries if entry.is_file()}

    def refuse_link(self, path: str, where: str) -> None:
        """Raises :class:`DataError` if links lead from a path to outside the folder."""
        if not Path(os.path.realpath(self.root / path)).is_relative_to(self.real):
            raise DataError(
                f"{where}: {self.root / path} is a link that leads outside {self.root}; copy the file "
                f"there, or give a root that holds both"
            )


def rows(path: Path, needed: Sequence[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Where each row is, and its cells by column: those needed, ``id``, ``split`` and ``group``, or all.

    Raises:
        DataError: If the file cannot be read, or a needed column is not there.
    """
    readers = {".csv": csv_rows, ".parquet": parquet_rows, ".jsonl": json_rows}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: expected a manifest ending in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise DataError(
            f"{path}: expected a manifest, found {'a folder' if path.exists() else 'nothing'} there"
        )
    try:
        yield from reader(path, needed)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the manifest cannot be read ({error})") from error


def refuse_absent(path: Path, needed: Sequence[str], there: Sequence[str]) -> None:
    """Raises :class:`DataError` if a column is not there, or is there twice."""
    for column in needed:
        if column not in there:
            raise DataError(
                f"{path}: has no column {column!r}{nearest(column, there)}, only "
                f"{', '.join(there) or 'none'}; "
                f"name the right one with image, or with the field's source"
            )
        if list(there).count(column) > 1:
            raise DataError(f"{path}: has two columns {column!r}; rename one")


def csv_rows(path: Path, needed: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    """Rows of a CSV file in UTF-8, whose first line names the columns."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, strict=True)
        try:
            header = [cell.strip() for cell in next(reader, [])]
            refuse_absent(path, needed or (), header)
            for row in reader:
                if not row:
                    continue
                where = f"{path} line {reader.line_num}"
                if len(row) != len(header):
                    raise DataError(f"{where}: expected {len(header)} cells, found {len(row)}")
                yield where, dict(zip(header, row, strict=True))
        except csv.Error as error:
            raise DataError(f"{path} line {reader.line_num}: not CSV ({error})") from error


def json_rows(path: Path, needed: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    """Rows of a file with an object of JSON a line; a column that no row has is not there."""
    seen: dict[str, None] = {}
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(
                    f'{where}: expected an object as {{"image": "a.png"}}, found {line.strip()[:40]}'
                )
            seen.update(dict.fromkeys(row))
            yield where, row
    refuse_absent(path, needed or (), list(seen))


def parquet_rows(path: Path, needed: Sequence[str] | None) -> Iterator[tuple[str, Row]]:
    """Rows of a Parquet file, of the columns that are of use."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(path).names
        refuse_absent(path, needed or (), there)
        wanted = there if needed is None else [*needed, "id", "split", "group"]
        table = pq.read_table(path, columns=[column for column in there if column in wanted])
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: not a Parquet file, or damaged ({error}); write it again") from error
    number = 0
    for batch in table.to_batches(max_chunksize=8192):
        for row in batch.to_pylist():
            number += 1
            yield f"{path} row {number}", row
