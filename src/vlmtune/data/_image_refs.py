"""Values of image columns: files below the dataset's folder, base64, bytes, or https addresses.

Rows are data and may be hostile: a file is read only if it lies below one of the allowed folders.
"""

import base64
import binascii
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from vlmtune.data._contract import DatasetConfig
from vlmtune.data._download import RemoteImages
from vlmtune.data._records import ReadRecord, Records
from vlmtune.errors import DataError, EnvironmentProblem
from vlmtune.images import page_count, read_page
from vlmtune.types import ImageRef, VideoRef
from vlmtune.videos import MAX_FRAMES

BLOCK, BLOCKS = 4096, 16
"""Block size in bytes, and the number of blocks that are hashed of a larger file, evenly spaced from start to end."""

FOLDERS = 1024
"""Folders of a dataset whose real paths are remembered."""

MAX_FILE_BYTES = 512 * 1024 * 1024
"""Largest image file that is read: the largest decoded image has 50 million pixels of at most 8 bytes."""

BASE64_FROM = 256
"""A bare string of at least this many characters, all of base64's alphabet, is an image and not a path."""

ENDINGS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif"),
    *(".tiff", ".webp"),
)
"""File name endings, in lower case, of the formats that `images` decodes."""

PAGED = (".pdf", ".tif", ".tiff")
"""Endings of files whose pages are images."""

_PAGE = re.compile(r"(?P<file>.+\.(?:pdf|tiff?))#page=(?P<page>\d{1,6})", re.IGNORECASE | re.DOTALL)
"""A page of a document, as in an address: `report.pdf#page=3`."""

PATH_KEYS = ("path", "file_name", "filename", "file", "url", "image_path")
"""Keys of an object that hold the path of an image, beside its size and the like."""

IMAGE_COLUMNS = {"image", "image_name", "image_id", "image_path", "img", "file", "file_name", "filename", "path"}
"""Usual names of columns with images, by which a header is known."""

DESCRIPTIONS = re.compile(
    r"(?:readme|licen[cs]e|copying|notice|authors|citation|contributing|change(?:log|s)|classes|requirements|notes?|"
    r"(?:md5|sha\d+)sums?|thumbs\.db|desktop\.ini)\b.*",
    re.IGNORECASE,
)
"""Names of files that describe a dataset, or that an operating system leaves behind."""

REMOTE = ("http://", "https://")
_BASE64 = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=\r\n")


def resolve(path: str, roots: Sequence[str], real_folder: Callable[[str], str] = os.path.realpath) -> str | None:
    """The real path of a file, symlinks followed; None if it lies below none of the folders `roots`.

    A relative path starts at the first of them. `real_folder` may remember the real paths of folders.
    """
    try:
        is_name = bool(roots) and b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # a lone surrogate, which no file name contains
        is_name = False
    if not is_name:
        return None
    folder, name = os.path.split(os.path.join(roots[0], path))  # noqa: PTH118 - twice as fast, for every row
    real = f"{real_folder(folder).rstrip('/')}/{name}"
    if name in ("", ".", "..") or os.path.islink(real):  # noqa: PTH114
        real = os.path.realpath(real)
    return real if any(f"{real}/".startswith(f"{real_folder(root).rstrip('/')}/") for root in roots) else None


@contextmanager
def open_readable(file: Path) -> Iterator[BinaryIO]:
    """Open a dataset's file for reading.

    Raises:
        EnvironmentProblem: it cannot be read, or no longer exists.
    """
    try:
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise EnvironmentProblem(
            f"{file}: {error.strerror or error}; check that it exists and that you may read it"
        ) from None


def file_fingerprint(file: str) -> str:
    """Size of a file and hash of at most 64 KiB: all bytes of a small file, evenly spaced blocks of a large one.

    An edit of a large uncompressed image that lies between the blocks goes unnoticed. "missing" for a file that does
    not exist or cannot be read; never raises for that.
    """
    try:
        if not Path(file).is_file():
            return "missing"
        with Path(file).open("rb", buffering=0) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= BLOCK * BLOCKS:
                sample = stream.read(BLOCK * BLOCKS)
            else:
                starts = (n * (size - BLOCK) // (BLOCKS - 1) for n in range(BLOCKS))
                sample = b"".join(os.pread(stream.fileno(), BLOCK, start) for start in starts)
    except OSError:
        return "missing"
    return f"{size}:{hashlib.sha256(sample).hexdigest()}"


@dataclass(frozen=True)
class ImageValues:
    """Reads the image values of one dataset.

    Attributes:
        roots: folders below which a row may name a file; a relative path starts at the first.
        outside: describes the roots in the message about a file outside of them.
        remote: downloads images.
        texts: whether a string may be a path or base64, as in files that people write.
    """

    roots: Sequence[str]
    outside: str
    remote: RemoteImages
    texts: bool = True

    @cached_property
    def _real_folder(self) -> Callable[[str], str]:
        """The real path of a folder; thousands of rows name files in the same one."""
        return lru_cache(FOLDERS)(os.path.realpath)

    def open(self, value: Any, where: str) -> ImageRef:
        """A reference to the image that a value holds or names; nothing is read yet.

        Raises:
            DataError: the value is no image, or names one that may not be read.
        """
        if isinstance(value, bytes | bytearray | memoryview):
            return self._from_bytes(bytes(value), where)
        if isinstance(value, dict) and {"bytes", *PATH_KEYS} & set(value):
            if value.get("bytes"):
                return self._from_bytes(value["bytes"], where)
            if (path := _path_in(value)) is None:
                raise DataError(f"{where}: no image in this row; repair or remove it")
            return self._from_path(path, where)
        if isinstance(value, str) and value.startswith(REMOTE):
            return self._from_path(value, where)
        if not self.texts:
            raise DataError(f"{where}: not an image column; set dataset.image to one (got {type(value).__name__})")
        if not isinstance(value, str) or not value or "\0" in value:
            raise DataError(f"{where}: an image must be a path or base64 text (got {value!r:.60})")
        if value.startswith("data:"):
            return ImageRef(where, lambda: _decode_base64(value.partition(",")[2]))
        return ImageRef(where, lambda: _decode_base64(value)) if is_base64(value) else self._from_path(value, where)

    def open_video(self, value: Any, where: str, rate: float) -> VideoRef:
        """A reference to the video that a value holds or names: a file, a list of frames or a folder of them.

        Args:
            value: as a row holds it.
            where: names it.
            rate: frames per second of a list or folder.

        Raises:
            DataError: the value is no video, or names one that may not be read.
        """
        frames = self._frames(value, where)
        if frames is None:
            file = self.open(value, where)
            return VideoRef(file.where, file.read)
        if not frames:
            raise DataError(f"{where}: a video without frames; repair or remove the row")
        refs = tuple(self.open(frame, f"{where}, frame {n}") for n, frame in enumerate(frames))
        named = f" ({value})" if isinstance(value, str) else ""
        return VideoRef(f"{where}{named}", lambda: _joined(refs), frames=refs, rate=rate)

    def video_files(self, value: Any) -> list[str]:
        """The files that a video value names."""
        files = map(self.file, [value] if (frames := self._frames(value, "")) is None else frames)
        return [file for file in files if file is not None]

    def _frames(self, value: Any, where: str) -> list[Any] | None:
        """The frames of a list or folder; None for a file."""
        if isinstance(value, list | tuple):
            names = list(value)
        else:
            folder = self.file(value) if isinstance(value, str) else None
            if folder is None or not Path(folder).is_dir():
                return None
            found = (entry.name for entry in Path(folder).iterdir())
            images = (name for name in found if name.lower().endswith(ENDINGS) and not name.startswith("."))
            names = [f"{value}/{name}" for name in sorted(images, key=_by_numbers)]
        if len(names) > MAX_FRAMES:
            raise DataError(f"{where}: a video of {len(names):,} frames, more than {MAX_FRAMES:,}")
        return names

    def records(self, where: str, count: int, read: ReadRecord, **more: Any) -> Records:
        """Records of a split whose images and videos are read here."""
        return Records(
            where,
            count,
            read,
            self.open,
            self.file,
            pages=self.pages,
            open_video=self.open_video,
            video_files=self.video_files,
            **more,
        )

    def pages(self, value: Any, where: str) -> list[Any]:
        """The value, or one for each page if it names a document.

        Raises:
            DataError: the document cannot be read.
        """
        if not isinstance(value, str) or not value.lower().endswith(PAGED) or (file := self.file(value)) is None:
            return [value]
        try:
            data = _read_regular(file)
        except (OSError, ValueError):  # said when the image is read
            return [value]
        count = page_count(data, f"{where} ({value})")
        is_image = count == 1 and not data.startswith(b"%PDF")
        return [value] if is_image else [f"{value}#page={page}" for page in range(1, count + 1)]

    def file(self, value: Any) -> str | None:
        """The file that a value names; None if the value holds the image itself or names no readable file."""
        if isinstance(value, dict):
            value = None if value.get("bytes") else _path_in(value)
        elif isinstance(value, str) and (not self.texts or value.startswith("data:") or is_base64(value)):
            return None
        if not isinstance(value, str) or not value or "://" in value or "::" in value:
            return None
        page = _PAGE.fullmatch(value)
        return resolve(page["file"] if page else value, self.roots, self._real_folder)

    def _from_bytes(self, data: Any, where: str) -> ImageRef:
        if not isinstance(data, bytes) or not data:
            raise DataError(f"{where}: no image in this row; repair or remove it")
        return ImageRef(where, lambda: data)

    def _from_path(self, path: Any, where: str) -> ImageRef:
        if isinstance(path, str) and path.startswith(REMOTE):
            self.remote.check(path, where)
            return ImageRef(f"{where} ({path})", lambda: self.remote.read(path, where))
        file = self.file({"path": path})
        if file is None:
            shown = str(path)[:200].encode(errors="backslashreplace").decode()
            raise DataError(f"{where}: {shown} lies outside {self.outside}{self._target(path)}")
        named = f"{where} ({Path(path).name if Path(path).is_absolute() else path})"
        return ImageRef(named, lambda: self._read(file, path))

    def _read(self, file: str, path: str) -> Any:
        """The bytes of a file, or the page that the path names."""
        try:
            data, page = _read_regular(file), _PAGE.fullmatch(path)
            return data if page is None else read_page(data, int(page["page"]), path)
        except (FileNotFoundError, NotADirectoryError):
            posix_path = path.replace("\\", "/")
            posix_file = resolve(posix_path, self.roots) if posix_path != path else None
            if posix_file is not None and Path(posix_file).is_file():
                message = f"no such file, but {posix_path} exists; separate folders with / instead of \\"
                raise FileNotFoundError(message) from None
            if (similar := _similar_name(file)) is not None:
                raise FileNotFoundError(f"no such file, but {similar}; write the name as it is there") from None
            raise FileNotFoundError(f"No such file: {file}") from None

    def _target(self, path: Any) -> str:
        """What to do about a file outside of the roots, if it exists."""
        if not isinstance(path, str) or not self.roots:
            return ""
        folder = os.path.realpath(Path(self.roots[0], path).parent)
        return f". To allow the folder it is in, set dataset.image_roots=[{folder}]" if Path(folder).is_dir() else ""


def _joined(frames: Sequence[ImageRef]) -> bytes:
    """Hashes of all frames, by which a video is known that has no file."""
    contents = (frame.read() for frame in frames)
    plain = (content if isinstance(content, bytes) else content.tobytes() for content in contents)
    return b"".join(hashlib.blake2b(content, digest_size=16).digest() for content in plain)


def _by_numbers(name: str) -> list[tuple[int, str]]:
    """A key that sorts `frame2` before `frame10`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def _path_in(value: dict[str, Any]) -> Any:
    """The path in an object that describes an image; None without one."""
    return next((value[key] for key in PATH_KEYS if value.get(key)), None)


def _read_regular(file: str) -> bytes:
    """The content of an image file; a row may also name a pipe, which nobody writes to, or a device without an end.

    Raises:
        OSError: it cannot be read.
        ValueError: not a regular file, or larger than any image that is decoded.
    """
    path = Path(file)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"a file of {status.st_size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
    return path.read_bytes()


def _similar_name(file: str) -> str | None:
    """An existing path that differs in letter case or in how accents are stored, and how it differs."""
    path, reasons = Path(file), set[str]()
    exact = next((parent for parent in path.parents if parent.is_dir()), None)
    if exact is None:
        return None
    found = exact
    for part in path.relative_to(exact).parts:
        try:
            names = sorted(entry.name for entry in found.iterdir())
        except OSError:
            return None
        accents = next((name for name in names if _composed(name) == _composed(part)), None)
        case = next((name for name in names if _composed(name).casefold() == _composed(part).casefold()), None)
        if accents is None and case is None:
            return None
        name = accents or case or part
        reasons |= set() if name == part else {_ACCENTS if accents is not None else _CASE}
        found /= name
    return f"{found.relative_to(exact).as_posix()} exists, {' and '.join(sorted(reasons))}" if reasons else None


_CASE = "with other upper and lower case"
_ACCENTS = "whose accents are stored in another way (Unicode NFC, NFD)"


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def folder_images(config: DatasetConfig, folder: Path) -> ImageValues:
    """Reads the image values of a dataset in a folder; other folders that the config names count as well."""
    roots = [str(folder), *(str(Path(root).expanduser()) for root in config.image_roots)]
    outside = f"{folder}; image paths must stay inside the dataset's folder"
    return ImageValues(roots, outside, RemoteImages(config.remote_images))


def is_base64(text: str) -> bool:
    """Whether a string is an image in base64, as opposed to a path."""
    return len(text) >= BASE64_FROM and not set(text) - _BASE64


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None
