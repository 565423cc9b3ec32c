"""Where files lie: in a folder of this machine, or behind the URL of an object store."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from pathlib import Path, PurePath
from typing import Any, cast

from search_spaces.errors import InvalidArgument, RaynasError

#: {scheme of a URL: the extra of raynas that opens it; empty: none is needed}
STORES = {"s3": "s3", "gs": "gs", "gcs": "gs", "memory": ""}
_MODULES = {"s3": "s3fs", "gs": "gcsfs"}

# A `pathlib.Path` has made one slash of two.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PART = re.compile(r"[^\x00-\x1f\x7f?#*\[\]\\]+")


def is_url(text: str | PathLike[str]) -> bool:
    """Return whether a text is a URL, other than of a local file, rather than a path."""
    match = _URL.fullmatch(str(text))
    if match is None or match[1].lower() == "file":
        return False
    return match[1].lower() in STORES or "://" in str(text)


def place(text: str | PathLike[str]) -> Path:
    """Return the path that a text means, absolute.

    Args:
        text: a path, `file:///folder`, or a URL such as `s3://bucket/folder`.

    Returns:
        A `Path`; of a URL, an object that behaves as one (`upath.UPath`). Listings of an object
        store are not kept, as other processes write there too.

    Raises:
        InvalidArgument: for a URL that names no folder of a store that is known, or one for which
            packages are missing: which to install.
    """
    if not is_url(text):
        return Path(str(text).removeprefix("file://")).expanduser().absolute()
    match = _URL.fullmatch(str(text))
    assert match is not None
    scheme, rest = match[1].lower(), match[2].rstrip("/")
    if scheme not in STORES:
        raise InvalidArgument(
            f"{scheme}:// is no store that is known: give {', '.join(f'{s}://' for s in STORES)},"
            " or mount it as a folder that all nodes see under the same path."
        )
    bucket, *parts = rest.split("/")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidArgument(
            f"{scheme}:// is followed by a bucket of letters, digits, '.', '_' and '-'. Keys and"
            " passwords do not belong there, but into the environment."
        )
    for part in parts:
        if not _PART.fullmatch(part) or part in (".", ".."):
            raise InvalidArgument(
                f"{scheme}://{rest}: {part!r} is no name of a folder in an object store; leave out"
                " empty names, '.', '..', line breaks, and any of ? # * [ ] \\."
            )
    _check_extra(scheme)

    from upath import UPath  # takes long, and local paths need none

    return cast(Path, UPath(f"{scheme}://{rest}", use_listings_cache=False))


def is_local(path: Path) -> bool:
    """Return whether a path is one of this machine's file system."""
    return isinstance(path, PurePath)


def make_folder(path: Path) -> None:
    """Make a folder with those above it; an object store has none, and needs none."""
    if is_local(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def as_os_errors(path: Path) -> Iterator[None]:
    """Make `OSError` of what the client of an object store raises: no network, no credentials."""
    try:
        yield
    except (OSError, RaynasError):
        raise
    except Exception as error:
        if is_local(path):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


def store_of(path: Path) -> Any:
    """Return the fsspec file system of a path in an object store; `key_of` names its files."""
    return cast(Any, path).fs


def key_of(path: Path) -> str:
    """Return the name of a file in its object store, with the bucket."""
    return str(cast(Any, path).path)


def _check_extra(scheme: str) -> None:
    extra = STORES[scheme]
    try:
        import_module(_MODULES.get(extra, "fsspec"))
        import_module("upath")
    except ImportError as error:
        raise InvalidArgument(
            f"{scheme}:// needs more packages: pip install 'raynas[{extra or 's3'}]' ({error})."
        ) from None
