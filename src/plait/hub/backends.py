"""Where shared networks lie: the Hugging Face hub, or a folder of this machine."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plait.errors import ConfigurationError, DataError, PlaitError
from plait.hub import bundle
from plait.training.checkpoint import explained_full_disk

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo


class Backend(Protocol):
    """A place that holds shared networks by their names."""

    def upload(self, folder: Path, repository: str, *, message: str, private: bool) -> str:
        """Puts a folder that :func:`plait.hub.bundle.make` wrote there, all of it or nothing.

        Returns:
            Where it is now, for people.
        """
        ...

    def download(self, repository: str, revision: str | None) -> Path:
        """Gets a network, checked; its files lie in the folder that is returned."""
        ...


@dataclass(frozen=True)
class LocalFolder:
    """A folder that holds shared networks, each in a folder of its name.

    Attributes:
        root: The folder.
    """

    root: Path

    def _place(self, repository: str) -> Path:
        place = self.root / repository
        if ".." in place.parts or not repository or Path(repository).is_absolute():
            raise ConfigurationError(f"expected the name of a folder in {self.root}, got {repository!r}")
        return place

    def upload(self, folder: Path, repository: str, *, message: str = "", private: bool = False) -> str:
        """Copies a network there; it appears whole.

        Raises:
            ConfigurationError: If something is there already, or it shall be private, which a hub does.
            DiskFullError: If the disk is full.
        """
        if private:
            raise ConfigurationError("private is for a hub: who may read a folder, its permissions say")
        place = self._place(repository)
        bundle.refuse_taken(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        try:
            with explained_full_disk(f"the network {place}"):
                made = shutil.copytree(folder, beside / place.name)
                bundle.place(Path(made), place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return str(place)

    def download(self, repository: str, revision: str | None = None) -> Path:
        """The network's folder, checked.

        Raises:
            ConfigurationError: If a revision is asked for, which a folder has not.
            DataError: If there is no network, or it is not what plait writes.
        """
        if revision is not None:
            raise ConfigurationError(
                f"a folder has no revisions, but {revision!r} was asked for: leave it out"
            )
        place = self._place(repository)
        if not place.is_dir():
            raise DataError(f"there is no {repository} in {self.root}: is the name right?")
        bundle.check(place, str(place), within=place)
        return place


@dataclass(frozen=True)
class HuggingFace:
    """The Hugging Face hub, or a server that speaks its language.

    Attributes:
        endpoint: The server; None for ``$HF_ENDPOINT``, as a rule huggingface.co.
        token: Who asks; None for the one that ``hf auth login`` or ``$HF_TOKEN`` left.
        cache: Where fetched networks are kept; None for the hub's usual folder.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    cache: Path | None = None

    def upload(self, folder: Path, repository: str, *, message: str, private: bool = False) -> str:
        """Puts a network there in one commit; the repository is made if there is none.

        Files of an earlier network that the new one has not are removed; others are left alone.

        Raises:
            ConfigurationError: If nobody is logged in, or the repository holds something else, or shall be
                private and is not.
            DataError: If the hub cannot be reached or does not allow it.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, get_token

        name = f"hf:{repository}"
        if not (self.token or get_token()):
            raise ConfigurationError(
                f"to push to {name} you must be logged in: `hf auth login`, or set HF_TOKEN to a token that "
                f"may write"
            )
        api = self._api()
        with explained(name, "pushed"):
            there = self._there(api, repository)
            if there is not None:
                refuse_foreign(there, name, private=private)
            api.create_repo(repository, private=private or None, exist_ok=True)
            before = set() if there is None else {file.rfilename for file in there.siblings or ()}
            written = sorted(path.name for path in folder.iterdir())
            operations: list[Any] = [
                CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in written
            ]
            gone = [file for file in bundle.FILES if file in before and file not in written]
            operations += [CommitOperationDelete(path_in_repo=file) for file in gone]
            api.create_commit(repository, operations, commit_message=message)
        return f"{api.endpoint}/{repository}"

    def download(self, repository: str, revision: str | None = None) -> Path:
        """Fetches a network's files and no others; what was fetched before is taken from the cache.

        Without a network, what is in the cache is taken.

        Raises:
            DataError: If there is none, the hub cannot be reached, or it is not what plait writes.
        """
        from huggingface_hub import snapshot_download

        name = f"hf:{repository}" + (f"@{revision}" if revision else "")
        options: dict[str, Any] = {
            "revision": revision,
            "allow_patterns": list(bundle.READ),
            "cache_dir": self.cache,
            "token": self.token,
            "endpoint": self.endpoint,
            "library_name": "plait",
            "library_version": importlib.metadata.version("plait"),
        }
        with explained(name, "fetched"):
            try:
                info = self._api().model_info(repository, revision=revision, files_metadata=True)
            except transport_errors() as error:
                if not unreachable(error):
                    raise
                folder = Path(snapshot_download(repository, local_files_only=True, **options))
            else:
                bundle.check_names({file.rfilename: file.size for file in info.siblings or ()}, name)
                folder = Path(snapshot_download(repository, **options))
        bundle.check(folder, name, within=folder.parent.parent)
        return folder

    def _api(self) -> HfApi:
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.endpoint, token=self.token, library_name="plait")

    def _there(self, api: HfApi, repository: str) -> ModelInfo | None:
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            return api.model_info(repository)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return None


def refuse_foreign(there: ModelInfo, name: str, *, private: bool) -> None:
    """Refuses to write over what is no network of plait, or to show what shall be private.

    Raises:
        ConfigurationError: If so.
    """
    files = {file.rfilename for file in there.siblings or ()} - {".gitattributes", bundle.CARD}
    if files and not files.issuperset(bundle.NEEDED):
        raise ConfigurationError(
            f"{name} exists and holds something else than a network of plait: name another"
        )
    if private and there.private is False:
        raise ConfigurationError(
            f"{name} exists and everybody can read it: make it private on its page first, or name another"
        )


def transport_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises for want of an answer, or for a bad one: the bases of its own error."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))


def unreachable(error: Exception) -> bool:
    """Whether an error says that no hub answered."""
    from huggingface_hub.errors import HfHubHTTPError

    return not isinstance(error, HfHubHTTPError) or error.response.status_code >= 500


@contextmanager
def explained(name: str, done: str) -> Iterator[None]:
    """Turns the errors of the hub's client into one sentence.

    Raises:
        DataError: In their place.
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    from plait.models.weights import quiet_hub

    try:
        with quiet_hub(), explained_full_disk(f"{name} in the hub's cache"):
            yield
    except PlaitError:
        raise
    except GatedRepoError as error:
        raise DataError(
            f"{name} asks for consent first: give it on its page, and log in here with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise DataError(f"{name} has no such revision: name one of its branches, tags or commits") from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"there is no {name}, or it is private and you may not read it: is the name right, and are you "
            f"logged in (`hf auth login`)?"
        ) from error
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{name} was not {done}: the hub cannot be reached, and it is not in the cache whole: try again "
            f"with a network, and without HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        raise DataError(f"{name} was not {done}: {answer(error)}") from error
    except HFValidationError as error:
        raise ConfigurationError(f"{name} cannot be a name on the hub: {first_line(error)}") from error
    except transport_errors() as error:
        raise DataError(
            f"{name} was not {done}: the hub cannot be reached ({first_line(error)}); try again with a "
            f"network"
        ) from error
    except ValueError as error:  # what the hub says of a card
        said = " ".join(str(error).split())
        raise DataError(f"{name} was not {done}: {said}") from error
    except RuntimeError as error:  # a large file that did not get through
        because = first_line(error.__cause__) if isinstance(error.__cause__, Exception) else "no reason given"
        raise DataError(f"{name} was not {done}: {first_line(error)} ({because}); try again") from error


def answer(error: Any) -> str:
    """What the hub answered, in a sentence."""
    status = error.response.status_code
    said = (error.server_message or "").strip().partition("\n")[0]
    if status in (401, 403):
        return (
            f"the hub does not allow it ({said or status}): log in with a token that may, by `hf auth login`"
        )
    if status >= 500:
        return f"the hub has trouble of its own ({said or status}): try again later"
    return f"the hub refused it ({said or status})"


def first_line(error: Exception) -> str:
    """The first line of what an error says, without a full stop, and without an address: it may be signed."""
    line = str(error).strip().partition("\n")[0]
    return re.sub(r"\s*(?:for url\s*)?['\"]?https?://\S+", "", line).rstrip(".: ") or type(error).__name__
