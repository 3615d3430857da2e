"""Original files where they lie: in a folder, or in a zip that is read in place and never trusted.

The index of a zip claims names, sizes and places. Here names are normalised and stay inside the archive, sizes are
bounded before anything is unpacked, and what is unpacked must be as long as claimed and have its checksum.
Memory stays below `MAX_INDEX_BYTES` for the raw index, about 400 bytes per member once read, and twice
`MAX_MEMBER_BYTES` while a member is.
"""

import hashlib
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError

MAX_INDEX_BYTES: Final = 256 << 20
MAX_MEMBERS: Final = 2_000_000
MAX_MEMBER_BYTES: Final = 64 << 20
MAX_RATIO: Final = 200
"""Most bytes that a byte may unpack to, in members larger than 1 MiB; deflate itself ends at 1 032."""

_RATIO_FREE_BYTES: Final = 1 << 20
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _UTF8 = 0x0001, 0x0800
_ZIP64, _UNICODE_PATH = 0x0001, 0x7075
_END: Final = struct.Struct("<4s4H2IH")
_END64_PLACE: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_ENTRY: Final = struct.Struct("<4s6H3I5H2I")
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_MAX_COMMENT: Final = 0xFFFF


class Originals(Protocol):
    """Files by name, wherever they lie; small and picklable, so that worker processes read on their own."""

    @property
    def path(self) -> Path:
        """The folder or archive."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files, sorted, with `/` between folders."""
        ...

    def state(self, name: str) -> str | None:
        """What cheaply tells a changed file from an unchanged one; None where there is no such file."""
        ...

    def read(self, name: str) -> bytes:
        """The content of one file."""
        ...


class UnusableFileError(FusionDatasetsError):
    """One of the original files cannot be used.

    Arguments:
        message: What was met, and what to do.
        reason: The same in a few words, for a list of files.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason: Final = reason

    def __reduce__(self) -> tuple[type["UnusableFileError"], tuple[str, str]]:
        return UnusableFileError, (str(self), self.reason)


def open_originals(path: Path) -> "Originals":
    """Open a folder or a zip.

    Raises:
        FusionDatasetsError: If the path is neither.
    """
    if path.is_dir():
        return Folder(path)
    if not path.exists():
        raise FusionDatasetsError(f"{path} does not exist; expected a folder or a zip with the original files")
    return Archive(path)


def contents_of(originals: Originals, names: Iterable[str]) -> Iterator[bytes | FusionDatasetsError]:
    """The content of each file, or, in a few words, why it has none, such as `missing` or `damaged`."""
    for name in names:
        try:
            yield originals.read(name)
        except UnusableFileError as error:
            yield FusionDatasetsError(error.reason)


def sha256_row(content: bytes | FusionDatasetsError) -> NDArray[np.uint8]:
    """SHA-256 of a content, uint8 `[32]`; zero where there is none."""
    if isinstance(content, FusionDatasetsError):
        return np.zeros(hashlib.sha256().digest_size, np.uint8)
    return np.frombuffer(hashlib.sha256(content).digest(), np.uint8)


@dataclass(frozen=True)
class Folder:
    """The files below a folder.

    Arguments:
        path: The folder.
    """

    path: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of all files below it, sorted, with `/` between folders.

        Links to folders are followed, in the order of their names, where they lead to what was not met before: nothing
        is there twice, and a link that leads back up does not go round for ever.
        """
        found: list[str] = []
        seen: set[tuple[int, int]] = set()
        waiting = [Path()]
        while waiting:
            links = []
            start = waiting.pop(0)
            if start.parts and _identity(self.path / start) in seen:
                continue
            for root, folders, files in os.walk(self.path / start):
                here = Path(root).relative_to(self.path)
                seen.add(_identity(Path(root)))
                found += [(here / file).as_posix() for file in files]
                links += [here / folder for folder in folders if Path(root, folder).is_symlink()]
            waiting = sorted([*waiting, *links])
        return tuple(sorted(found))

    def state(self, name: str) -> str | None:
        """Size and time of last change, or None where there is no such file."""
        try:
            status = os.stat(f"{self.path}/{name}")  # noqa: PTH116 as below
        except OSError:
            return None
        return f"{status.st_size} {status.st_mtime_ns}"

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            FusionDatasetsError: If it is missing or cannot be read.
        """
        try:
            # A path object or a file object for each of many small files would cost as much as reading it.
            descriptor = os.open(f"{self.path}/{name}", os.O_RDONLY | getattr(os, "O_BINARY", 0))
            try:
                size = os.fstat(descriptor).st_size
                content = os.read(descriptor, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            reason = "missing" if isinstance(error, FileNotFoundError) else str(error.strerror or error).lower()
            raise UnusableFileError(f"{self.path / name} cannot be read: {error.strerror or error}", reason) from error
        if len(content) < size:
            raise UnusableFileError(
                f"{self.path / name} ends early; it changed while it was read, or is over 2 GiB", "ends early"
            )
        return content

    def __reduce__(self) -> tuple[type["Folder"], tuple[Path]]:
        return Folder, (self.path,)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise FusionDatasetsError(f"{folder} cannot be read: {error.strerror or error}") from error
    return status.st_dev, status.st_ino


class Member(NamedTuple):
    """What the index of a zip says of one file.

    Arguments:
        offset: Where its local header starts.
        packed: Bytes in the archive.
        size: Bytes unpacked.
        crc32: Checksum of the unpacked bytes.
        method: 0 stored, 8 deflated.
        flags: General purpose bits; bit 0 means encrypted.
    """

    offset: int
    packed: int
    size: int
    crc32: int
    method: int
    flags: int


@dataclass(frozen=True)
class Archive:
    """A zip, or zip64, read in place.

    It may be pickled; every reading opens the file for itself, so that neither threads nor processes share a handle.

    Arguments:
        path: The archive. The index is read at the first question.
    """

    path: Path

    @cached_property
    def members(self) -> Mapping[str, Member]:
        """The index: normalised name → what it says; folders are left out.

        Raises:
            FusionDatasetsError: If the file is no zip, is damaged, or holds a name that leads out of it or comes twice.
        """
        try:
            with self.path.open("rb") as file:
                return MappingProxyType(_read_index(file, self.path))
        except OSError as error:
            raise FusionDatasetsError(f"{self.path} cannot be read: {error.strerror or error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files in it, sorted, with `/` between folders."""
        return tuple(sorted(self.members))

    def state(self, name: str) -> str | None:
        """Size and checksum by the index, or None where there is no such file."""
        member = self.members.get(name)
        return None if member is None else f"{member.size} {member.crc32}"

    def read(self, name: str) -> bytes:
        """Unpack one file.

        Arguments:
            name: A normalised name.

        Returns:
            Its content, as long as the index says and with the checksum that it says.

        Raises:
            FusionDatasetsError: If it is missing, encrypted, packed by another method, too large, or damaged.
        """
        member = self.members.get(name)
        if member is None:
            raise UnusableFileError(f"{self.path} holds no {name}; expected the archive as it is published", "missing")
        where = f"{self.path}: {name}"
        if member.flags & _ENCRYPTED:
            raise UnusableFileError(
                f"{where} is encrypted; unpack the archive by hand and name the folder",
                "encrypted: unpack the archive by hand and name the folder",
            )
        if member.method not in (_STORED, _DEFLATED):
            raise UnusableFileError(
                f"{where} is packed by method {member.method}; only stored and deflated files are read: "
                "unpack the archive by hand and name the folder",
                f"packed by method {member.method}: unpack the archive by hand and name the folder",
            )
        if member.size > MAX_MEMBER_BYTES:
            raise UnusableFileError(
                f"{where} claims {member.size} bytes; at most {MAX_MEMBER_BYTES} are accepted",
                f"larger than {MAX_MEMBER_BYTES >> 20} MiB, in an archive",
            )
        if member.size > max(_RATIO_FREE_BYTES, MAX_RATIO * member.packed):
            raise UnusableFileError(
                f"{where} claims to unpack {member.packed} bytes to {member.size}; at most {MAX_RATIO} times as many "
                "are accepted",
                f"unpacks to more than {MAX_RATIO} times its bytes",
            )
        try:
            with self.path.open("rb") as file:
                packed = _read_packed(file, member)
        except OSError as error:
            raise UnusableFileError(
                f"{self.path} cannot be read: {error.strerror or error}", str(error.strerror or error).lower()
            ) from error
        content = None if packed is None else _unpack(packed, member)
        if content is None or len(content) != member.size or zlib.crc32(content) != member.crc32:
            raise UnusableFileError(f"{where} is damaged; fetch the archive again", "damaged")
        return content

    def __reduce__(self) -> tuple[type["Archive"], tuple[Path]]:
        return Archive, (self.path,)


def _read_packed(file: BinaryIO, member: Member) -> bytes | None:
    """The packed bytes of a member, or None where the archive does not hold them."""
    file.seek(member.offset)
    head = file.read(_LOCAL.size)
    if len(head) < _LOCAL.size or not head.startswith(b"PK\3\4"):
        return None
    name_length, extra_length = _LOCAL.unpack(head)[-2:]
    start = file.seek(name_length + extra_length, os.SEEK_CUR)
    end = os.fstat(file.fileno()).st_size
    return file.read(member.packed) if start + member.packed <= end else None


def _unpack(packed: bytes, member: Member) -> bytes | None:
    if member.method == _STORED:
        return packed
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        return inflater.decompress(packed, member.size + 1)  # a byte more than claimed is enough to know
    except zlib.error:
        return None


def _read_index(file: BinaryIO, path: Path) -> dict[str, Member]:
    start, size = _find_index(file, path)
    file.seek(start)
    content = file.read(size)
    damaged = FusionDatasetsError(f"{path} has a damaged index; fetch it again")
    members: dict[str, Member] = {}
    at = 0
    while at < size:
        if size - at < _ENTRY.size or content[at : at + 4] != b"PK\1\2":
            raise damaged
        entry = _ENTRY.unpack_from(content, at)
        flags, method, crc32, packed, unpacked = entry[3], entry[4], *entry[7:10]
        name_end = at + _ENTRY.size + entry[10]
        extra_end = name_end + entry[11]
        raw_name, extra = content[at + _ENTRY.size : name_end], content[name_end:extra_end]
        at = extra_end + entry[12]
        if at > size:
            raise damaged
        sizes = _widened((unpacked, packed, entry[16]), extra)
        if sizes is None:
            raise damaged
        name = _normalised(_decoded(raw_name, flags, extra, path), path)
        if name is None:
            continue
        if name in members:
            raise FusionDatasetsError(f"{path} holds {name} twice; expected the archive as it is published")
        if len(members) == MAX_MEMBERS:
            raise FusionDatasetsError(f"{path} holds more than {MAX_MEMBERS} files; that many are not accepted")
        members[name] = Member(sizes[2], sizes[1], sizes[0], crc32, method, flags)
    return members


def _find_index(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Start and size of the central directory."""
    total = file.seek(0, os.SEEK_END)
    tail_start = max(0, total - _END.size - _MAX_COMMENT)
    file.seek(tail_start)
    tail = file.read(total - tail_start)
    for match in reversed(list(re.finditer(b"PK\x05\x06", tail))):
        at = match.start()
        if len(tail) - at < _END.size:
            continue
        *_, size, start, comment = _END.unpack_from(tail, at)
        if at + _END.size + comment == len(tail):
            break
    else:
        raise FusionDatasetsError(f"{path} is no zip, or a truncated one; fetch it again")
    end = tail_start + at
    place = tail[at - _END64_PLACE.size : at] if at >= _END64_PLACE.size else b""
    if place.startswith(b"PK\6\7"):
        end = _END64_PLACE.unpack(place)[2]
        file.seek(min(end, total))
        record = file.read(_END64.size)
        if len(record) < _END64.size or not record.startswith(b"PK\6\6"):
            raise FusionDatasetsError(f"{path} has a damaged index; fetch it again")
        *_, size, start = _END64.unpack(record)
    if start + size > end:
        raise FusionDatasetsError(f"{path} has an index outside the file; fetch it again")
    if size > MAX_INDEX_BYTES:
        raise FusionDatasetsError(f"{path} has an index of {size} bytes; at most {MAX_INDEX_BYTES} are accepted")
    return start, size


def _widened(fields: tuple[int, int, int], extra: bytes) -> tuple[int, int, int] | None:
    """Replace fields of 32 bits that say "see the zip64 extra field" by what stands there."""
    if 0xFFFFFFFF not in fields:
        return fields
    body = _extra_field(extra, _ZIP64)
    if body is None:
        return None
    wide = struct.iter_unpack("<Q", body[: len(body) // 8 * 8])
    values = [next(wide, (None,))[0] if field == 0xFFFFFFFF else field for field in fields]
    unpacked, packed, offset = values
    return None if None in values else (unpacked, packed, offset)


def _extra_field(extra: bytes, wanted: int) -> bytes | None:
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == wanted:
            return extra[at + 4 : at + 4 + length]
        at += 4 + length
    return None


def _decoded(raw: bytes, flags: int, extra: bytes, path: Path) -> str:
    """The name as it was where the archive was made.

    A name that is not marked as UTF-8 may have its UTF-8 in an extra field (Info-ZIP), be UTF-8 all the same (macOS),
    or be of the IBM code page that the format began with.
    """
    unicode_path = _extra_field(extra, _UNICODE_PATH)
    if unicode_path and unicode_path[:5] == b"\1" + zlib.crc32(raw).to_bytes(4, "little"):
        raw, flags = unicode_path[5:], flags | _UTF8
    try:
        return raw.decode()
    except UnicodeDecodeError:
        if flags & _UTF8:
            raise FusionDatasetsError(f"{path} holds a file name that is no UTF-8; fetch it again") from None
        return raw.decode("cp437")


def _normalised(name: str, path: Path) -> str | None:
    """The name with `/` between folders, or None for a folder."""
    name = name.replace("\\", "/")
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name or re.match("[A-Za-z]:", name):
        raise FusionDatasetsError(
            f"{path} holds the file name {name!r}, which leads out of the archive; do not trust it"
        )
    kept = [part for part in parts if part not in ("", ".")]
    return "/".join(kept) if kept and parts[-1] not in ("", ".") else None
