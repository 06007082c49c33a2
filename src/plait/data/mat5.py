"""The variables of a MATLAB file of version 5 to 7.2, taken apart and checked before SciPy reads one.

SciPy trusts the sizes in such a file; a damaged structure can end the whole process. Here every size is held
against what encloses it first, and what unpacks is bounded.

Source:
    MathWorks, MAT-File Format, version 5: data elements, array flags and subelements of each class.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from plait.data.files import MAX_PIXELS
from plait.errors import DataError

HEADER = 128
MATRIX, COMPRESSED = 14, 15
SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
"""Bytes of a number, by the type of its element."""
TEXT = (1, 2, 3, 4, 16, 17, 18)
CELL, STRUCTURE, OBJECT, CHARACTERS = 1, 2, 3, 4
NUMBERS = range(6, 16)
MAX_STRUCT_BYTES = 256 * 2**20
"""A structure is refused beyond this, unpacked: what it holds is only known by reading."""
MAX_DEPTH = 32


class DamagedError(ValueError):
    """What stands in the file cannot be."""


@dataclass(frozen=True)
class Variable:
    """A variable as it lies in the file.

    Attributes:
        name: What it is called.
        shape: Its extents.
        holds_others: Whether it is a structure or cells, rather than numbers or text.
        content: A file with this variable alone, uncompressed and checked.
    """

    name: str
    shape: tuple[int, ...]
    holds_others: bool
    content: bytes


def variables(content: bytes, name: str) -> Iterator[Variable]:
    """The variables of a file, one after the other; each is checked as it comes.

    Args:
        content: The whole file.
        name: What to call it in errors.

    Raises:
        DataError: If it claims too much.
        DamagedError: If its elements do not fit into each other.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None:
        raise DamagedError("no header")
    reader = _Reader(order, name)
    place = HEADER
    while place < len(content):
        kind, start, end, place = reader.element(content, place, len(content))
        if kind == COMPRESSED:
            place = end  # these alone are not padded
            unpacked = _unpacked(content[start:end], name)
            kind, start, end, _ = reader.element(unpacked, 0, len(unpacked))
            yield reader.variable(unpacked, kind, start, end, content[:HEADER])
        else:
            yield reader.variable(content, kind, start, end, content[:HEADER])


def _unpacked(packed: bytes, name: str) -> bytes:
    limit = 16 * MAX_PIXELS
    unpacked = zlib.decompressobj().decompress(packed, limit + 1)
    if len(unpacked) > limit:
        raise DataError(f"{name}: unpacks to more than {limit:,} bytes; nothing was read")
    return unpacked


@dataclass(frozen=True)
class _Reader:
    order: str
    file: str

    def element(self, data: bytes, place: int, limit: int) -> tuple[int, int, int, int]:
        """Type, begin and end of the element at a place, and the place of the next."""
        if place + 8 > limit:
            raise DamagedError("an element without room")
        first, size = struct.unpack_from(f"{self.order}II", data, place)
        if first >> 16:  # up to four bytes stand in the tag itself
            kind, size, start = first & 0xFFFF, first >> 16, place + 4
            if size > 4:
                raise DamagedError("a small element of more than four bytes")
            return kind, start, start + size, place + 8
        start = place + 8
        if start + size > limit:
            raise DamagedError("an element longer than what holds it")
        return first, start, start + size, min(start + size + -size % 8, limit)

    def variable(self, data: bytes, kind: int, start: int, end: int, header: bytes) -> Variable:
        if kind != MATRIX:
            raise DamagedError(f"an element of type {kind} where a variable should be")
        told, shape, name, place = self.head(data, start, end)
        holds_others = told in (CELL, STRUCTURE, OBJECT)
        if holds_others and end - start > MAX_STRUCT_BYTES:
            raise DataError(f"{self.file}: unpacks to more than {MAX_STRUCT_BYTES:,} bytes; nothing was read")
        if 8 * math.prod(shape) > 16 * MAX_PIXELS:
            raise DataError(
                f"{self.file}: {name!r} claims the shape {shape}, more than {16 * MAX_PIXELS:,} bytes; "
                f"nothing was read"
            )
        self.body(data, told, shape, place, end, depth=0)
        alone = header + struct.pack(f"{self.order}II", MATRIX, end - start) + data[start:end]
        return Variable(name, shape, holds_others, alone)

    def head(self, data: bytes, start: int, end: int) -> tuple[int, tuple[int, ...], str, int]:
        """Class, shape and name of an array, and where its body begins."""
        kind, begin, stop, place = self.element(data, start, end)
        if kind != 6 or stop - begin != 8:
            raise DamagedError("no flags")
        flags = struct.unpack_from(f"{self.order}I", data, begin)[0]
        if flags & 0x0800:
            raise DamagedError("complex numbers")
        kind, begin, stop, place = self.element(data, place, end)
        if kind != 5 or not 8 <= stop - begin <= 128 or (stop - begin) % 4:
            raise DamagedError("no shape")
        shape = struct.unpack_from(f"{self.order}{(stop - begin) // 4}i", data, begin)
        if min(shape) < 0:
            raise DamagedError(f"the shape {shape}")
        kind, begin, stop, place = self.element(data, place, end)
        if kind not in TEXT:
            raise DamagedError("no name")
        return flags & 0xFF, shape, data[begin:stop].decode("latin-1"), place

    def body(self, data: bytes, told: int, shape: tuple[int, ...], place: int, end: int, depth: int) -> None:
        """Checks that what an array holds fits into it."""
        count = math.prod(shape)
        if told == OBJECT:
            kind, _, _, place = self.element(data, place, end)
            if kind not in TEXT:
                raise DamagedError("an object without a class")
        if told in (STRUCTURE, OBJECT):
            count, place = self.fields(data, count, place, end)
        if told in (CELL, STRUCTURE, OBJECT):
            if depth == MAX_DEPTH or 8 * count > end - place:
                raise DamagedError("more members than there is room for")
            for _ in range(count):
                place = self.member(data, place, end, depth + 1)
        elif told == CHARACTERS:
            if self.element(data, place, end)[0] not in TEXT:
                raise DamagedError("no text")
        elif told in NUMBERS:
            kind, begin, stop, _ = self.element(data, place, end)
            if kind not in SIZES or stop - begin != SIZES[kind] * count:
                raise DamagedError(f"{stop - begin} bytes of numbers for the shape {shape}")
        else:
            raise DamagedError(f"an array of class {told}, which is not read")

    def fields(self, data: bytes, count: int, place: int, end: int) -> tuple[int, int]:
        """How many members a structure has, and where the first one lies."""
        kind, begin, stop, place = self.element(data, place, end)
        if kind != 5 or stop - begin != 4:
            raise DamagedError("no length of field names")
        length = struct.unpack_from(f"{self.order}i", data, begin)[0]
        kind, begin, stop, place = self.element(data, place, end)
        if kind not in TEXT or not 1 <= length <= 4096 or (stop - begin) % length:
            raise DamagedError("no field names")
        names = [data[at : at + length].split(b"\0")[0] for at in range(begin, stop, length)]
        if not all(names) or len(set(names)) < len(names):
            raise DamagedError("field names that are empty or stand twice")
        return count * len(names), place

    def member(self, data: bytes, place: int, end: int, depth: int) -> int:
        kind, begin, stop, place = self.element(data, place, end)
        if kind != MATRIX:
            raise DamagedError(f"an element of type {kind} where a member should be")
        if stop > begin:  # none at all is an empty one
            told, shape, _, body = self.head(data, begin, stop)
            self.body(data, told, shape, body, stop, depth)
        return place
