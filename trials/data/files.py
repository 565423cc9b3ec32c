"""Folders of images, and Parquet files of encoded images."""

import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import PositiveInt

from trials.data.decoding import EncodedSource, Files, Rows, read_encoded
from trials.data.fetching import fetched
from trials.data.sources import Collection
from trials.errors import DataError
from trials.places import as_os_errors, is_local, is_url, place

_IMAGE_SUFFIXES = (
    ".bmp",
    ".gif",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


#: what the folders of training, validation and test images may be called
_PARTS: list[tuple[str, ...]] = [("train",), ("validation", "val", "valid"), ("test",)]


@dataclass(frozen=True, eq=False)
class Folder(EncodedSource):
    """A folder of class folders, or one with `train`, `validation`, `test` of them.

    The folders of the latter may also be called `val` or `valid`; where there are others beside
    them, all are classes. The classes are numbered in the order of their sorted names; images may
    lie in subfolders.

    Args:
        path: the folder.
        size: scale the images to `size` x `size` pixels; None: as they are, or where they differ
            in size `trials.data.scaling.usual_size`.
    """

    path: Path
    size: PositiveInt | None = None

    @property
    def name(self) -> str:
        """The folder's name."""
        return place(self.path).name if is_url(self.path) else self.path.expanduser().resolve().name

    def read(self) -> Collection:
        """See `Source`."""
        if is_url(self.path):
            return fetched(place(self.path), self.limit_bytes, self._read)
        return self._read(self.path.expanduser())

    def _read(self, root: Path) -> Collection:
        """Read a folder of this machine."""
        if not root.is_dir():
            raise DataError(f"there is no folder {root}.")
        whole = not {"train"} <= set(_folders(root)) <= {name for part in _PARTS for name in part}
        classes = _class_folders(root if whole else root / "train")
        paths: list[str] = []
        labels: list[int] = []
        sizes = [0, 0, 0]
        for number, names in enumerate([("",)] if whole else _PARTS):
            folder = next((root / name for name in names if (root / name).is_dir()), None)
            if folder is not None:
                labeled = list(_labeled_files(folder, classes))
                paths += [path for path, _ in labeled]
                labels += [label for _, label in labeled]
                sizes[number] = len(labeled)
        return read_encoded(
            self, Files(paths), np.array(labels), (sizes[0], sizes[1], sizes[2]), classes, self.size
        )


def _class_folders(folder: Path) -> list[str]:
    """Return the sorted names of the class folders in `folder`."""
    classes = _folders(folder)
    if not classes:
        raise DataError(f"{folder} has no class folders; put images into {folder}/CLASS/.")
    return classes


def _folders(folder: Path) -> list[str]:
    """Return the sorted names of the folders in `folder`, hidden ones apart."""
    return sorted(
        path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def _labeled_files(folder: Path, classes: list[str]) -> Iterator[tuple[str, int]]:
    """Yield (path, class number) of the images below `folder`, in the order of their names."""
    for name in _class_folders(folder):
        if name not in classes:
            raise DataError(
                f"class {name!r} of {folder} is none of the training classes {classes}."
            )
        files = image_files(folder / name)
        if not files:
            raise DataError(
                f"{folder / name} holds no images ({', '.join(_IMAGE_SUFFIXES)}); "
                "add some or remove the folder."
            )
        yield from ((file, classes.index(name)) for file in files)


def image_files(folder: Path) -> list[str]:
    """Return the sorted paths of the images in a folder and its subfolders, hidden ones apart."""
    return sorted(
        path.as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in _IMAGE_SUFFIXES and not path.name.startswith(".")
    )


@dataclass(frozen=True, eq=False)
class Parquet(EncodedSource):
    """A Parquet file of encoded images and integer labels, also as Hugging Face writes it.

    Args:
        path: the file with the training images.
        validation: a file with the validation images.
        test: a file with the test images.
        image: column of encoded images: bytes, or a struct with a field `bytes`.
        label: column of class numbers.
        size: scale the images to `size` x `size` pixels; None: as they are, or where they differ
            in size `trials.data.scaling.usual_size`.
    """

    path: Path
    validation: Path | None = None
    test: Path | None = None
    image: str = "image"
    label: str = "label"
    size: PositiveInt | None = None

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return self.path.stem

    def read(self) -> Collection:
        """See `Source`."""
        if self.image == self.label:
            raise DataError(f"image={self.image} and label={self.label} are the same column.")
        files = [path and _found(path) for path in (self.path, self.validation, self.test)]
        tables = [None if path is None else self._table(path) for path in files]
        train, validation, test = (0 if table is None else len(table) for table in tables)
        parts = [(str(path), t) for path, t in zip(files, tables, strict=True) if t is not None]
        chunks = [chunk for _, table in parts for chunk in table.column(self.image).chunks]
        rows = Rows(
            pa.chunked_array(chunks, pa.large_binary()),
            tuple((path, len(table)) for path, table in parts),
        )
        labels = np.concatenate([table.column(self.label).to_numpy() for _, table in parts])
        names = _huggingface_classes(parts[0][1], self.label)
        return read_encoded(self, rows, labels, (train, validation, test), names, self.size)

    def _table(self, path: Path) -> pa.Table:
        """Return image and label column of one file, checked; images as `large_binary`."""
        try:
            with as_os_errors(path):
                return self._checked(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}") from None

    def _checked(self, path: Path) -> pa.Table:
        with nullcontext(path) if is_local(path) else path.open("rb") as file:
            schema = pq.read_schema(file)
            missing = {self.image, self.label} - set(schema.names)
            if missing:
                raise DataError(
                    f"{path} has no column {', '.join(sorted(missing))} but "
                    f"{', '.join(schema.names)}; name them with image= and label=."
                )
            table = pq.read_table(file, columns=[self.image, self.label])
        images = table.column(self.image)
        if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
            images = pc.struct_field(images, "bytes")
        if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
            raise DataError(f"column {self.image!r} of {path} is {images.type}, not bytes.")
        if not pa.types.is_integer(table.schema.field(self.label).type):
            kind = table.schema.field(self.label).type
            raise DataError(f"column {self.label!r} of {path} is {kind}, not class numbers.")
        for name, column in ((self.image, images), (self.label, table.column(self.label))):
            if column.null_count:
                row = pc.index(pc.is_null(column), True).as_py()
                raise DataError(f"{path}, row {row}: column {name!r} is empty; remove such rows.")
        return table.set_column(
            table.schema.get_field_index(self.image), self.image, images.cast(pa.large_binary())
        )


def _found(path: Path) -> Path:
    return place(path) if is_url(path) else path.expanduser()


def _huggingface_classes(table: pa.Table, label: str) -> Sequence[str]:
    """Return the class names that Hugging Face's `datasets` keeps in metadata, if any."""
    try:
        feature = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features", label):
            feature = feature.get(key, {})
        return tuple(feature.get("names", ()))
    except (ValueError, AttributeError, TypeError):  # another program's; names are not needed
        return ()
