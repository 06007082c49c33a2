"""How a network of a hub is named: ``hf:org/name``, and a revision of it ``hf:org/name@v1``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from plait.errors import ConfigurationError

HUB = "hf:"

NAME = re.compile(r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,126}", re.ASCII)


@dataclass(frozen=True)
class Address:
    """A repository of a hub.

    Attributes:
        repository: ``org/name``.
        revision: A branch, a tag or a commit; None for the newest.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{HUB}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads an address.

        >>> Address.parse("hf:org/name@v1")
        Address(repository='org/name', revision='v1')

        Raises:
            ConfigurationError: If it is none, or holds what could lead elsewhere, such as ``..``.
        """
        repository, at, revision = text.removeprefix(HUB).partition("@")
        names = repository.split("/")
        fits = len(names) == 2 and all(NAME.fullmatch(name) for name in names)
        if at:
            fits = fits and REVISION.fullmatch(revision) is not None and not revision.endswith("/")
        if not fits or not text.startswith(HUB) or any(part in text for part in ("..", "--", "//")):
            raise ConfigurationError(
                f"expected hf:ORGANISATION/NAME, or hf:ORGANISATION/NAME@REVISION, got {text!r}: "
                f"a network of the hub is named like hf:org/rooms-five"
            )
        return cls(repository, revision or None)
