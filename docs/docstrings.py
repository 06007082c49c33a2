"""Docstrings as the site shows them: what is written as plain text in the code becomes Markdown.

An extension of griffe, which reads the code for mkdocstrings. It turns references such as ``:class:`Task```
into links (where the site describes what they name), examples into code, tables between lines of ``=`` into
tables, and a paragraph's end of two colons into one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from griffe import AliasResolutionError, Extension, NameResolutionError, Object

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|obj):`(~?)([\w.]+)`")
EDGE = re.compile(r"\s*=+( +=+)+\s*$")


class Markdown(Extension):
    """Rewrites every docstring that is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called with each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, obj)


def as_markdown(text: str, of: Object | None = None) -> str:
    """The same text, as Markdown.

    Args:
        text: A docstring, without its common indentation.
        of: Whose it is; names in it are looked up from there.
    """
    lines = list(tables(code(text.splitlines())))
    return ROLE.sub(lambda found: link(found[2], of, short=bool(found[1])), "\n".join(lines))


def link(name: str, of: Object | None, *, short: bool = False) -> str:
    """A name as code, with a link to where the site describes it, if it does."""
    target = name
    if of is not None and not name.startswith("plait."):
        first, _, rest = name.partition(".")
        try:
            target = ".".join(part for part in (of.resolve(first), rest) if part)
        except (NameResolutionError, AliasResolutionError):
            return f"`{name}`"
    shown = target.rpartition(".")[2] if short else name
    return f'<autoref identifier="{target}" optional>`{shown}`</autoref>'


def code(lines: Sequence[str]) -> Iterator[str]:
    """Fences around examples that begin with a prompt, and one colon for two."""
    inside = ""
    for line in lines:
        indent, stripped = line[: len(line) - len(line.lstrip())], line.strip()
        if not inside and stripped.startswith(">>> "):
            inside = indent or "-"
            yield f"{indent}```pycon"
        elif inside and not stripped:
            yield f"{inside.strip('-')}```"
            inside = ""
        if not inside and stripped.endswith("::"):
            line = indent if stripped == "::" else line.rstrip()[:-1]
        yield line
    if inside:
        yield f"{inside.strip('-')}```"


def tables(lines: Iterator[str]) -> Iterator[str]:
    """Tables whose columns are ruled by ``=``; the line between two rules at the top is the head."""
    given = list(lines)
    place = 0
    while place < len(given):
        if not EDGE.match(given[place]):
            yield given[place]
            place += 1
            continue
        columns = [(found.start(), found.end()) for found in re.finditer("=+", given[place])]
        indent = given[place][: columns[0][0]]
        groups: list[list[list[str]]] = []
        while place < len(given) and given[place].strip():
            if EDGE.match(given[place]):
                groups.append([])
            else:
                add(groups[-1], cells(given[place], columns))
            place += 1
        *heads, body = [group for group in groups if group]
        (head,) = heads[0] if heads else [[""] * len(columns)]
        for row in (head, ["---"] * len(columns), *body):
            yield f"{indent}| {' | '.join(row)} |"


def cells(line: str, columns: Sequence[tuple[int, int]]) -> list[str]:
    """The cells of a line; the last column goes on to the line's end."""
    ends = [*(end for _, end in columns[:-1]), None]
    return [
        line[start:end].strip().replace("|", "\\|") for (start, _), end in zip(columns, ends, strict=True)
    ]


def add(rows: list[list[str]], row: list[str]) -> None:
    """Adds a row, or to the last one if the first cell is empty."""
    if rows and not row[0]:
        rows[-1] = [f"{above} {below}".strip() for above, below in zip(rows[-1], row, strict=True)]
    else:
        rows.append(row)
