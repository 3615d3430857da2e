"""PLY files of triangle meshes, ASCII and binary: read strictly, and never by what their headers claim."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.rendering.mesh import Mesh

LARGEST_FILE: Final = 512 * 2**20
"""Bytes; some thirty times the largest CAD model of T-LESS would still be read."""

_LONGEST_HEADER: Final = 64 * 2**10
_TYPES: Final = {
    name: code
    for code, names in {
        "i1": "char int8",
        "u1": "uchar uint8",
        "i2": "short int16",
        "u2": "ushort uint16",
        "i4": "int int32",
        "u4": "uint uint32",
        "f4": "float float32",
        "f8": "double float64",
    }.items()
    for name in names.split()
}
_ORDERS: Final = {"binary_little_endian": "<", "binary_big_endian": ">"}


@dataclass(frozen=True, slots=True)
class _Property:
    name: str
    type: str
    count_type: str | None  # of a list's length; None for a single number


@dataclass(frozen=True, slots=True)
class _Element:
    name: str
    count: int
    properties: tuple[_Property, ...]


class _MalformedError(Exception):
    pass


def read_ply(path: Path) -> Mesh:
    """Read the triangles of a PLY file (ASCII or binary, version 1.0).

    Arguments:
        path: A file with `element vertex` (x, y, z and whatever else) and `element face` (vertex_indices, polygons of
            one size, which are cut into triangles).

    Returns:
        The mesh, in the file's own unit (millimetres in T-LESS).

    Raises:
        FusionDatasetsError: If the file is anything else, or holds more or less than it claims. Memory is bounded by
            the file's size, whatever the header says.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise _MalformedError(f"is larger than the {LARGEST_FILE >> 20} MiB that are accepted")
        with path.open("rb") as stream:
            layout, elements = _read_header(stream)
            tables = {}
            for element in elements:
                _require_room(element, layout, size - stream.tell())
                tables[element.name] = _read_table(element, layout, stream)
            if stream.read(64).strip():
                raise _MalformedError("holds more than its header claims")
        vertices, faces = _vertices(elements, tables), _triangles(elements, tables)
        return Mesh(vertices, faces)
    except _MalformedError as error:
        raise FusionDatasetsError(f"{path} {error}") from None
    except FusionDatasetsError as error:
        raise FusionDatasetsError(f"{path} cannot be used: {error}") from None
    except OSError as error:
        raise FusionDatasetsError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_header(stream: BinaryIO) -> tuple[str, list[_Element]]:
    head = stream.read(_LONGEST_HEADER)
    if not re.match(rb"ply\r?\n", head):
        raise _MalformedError("is no PLY file; expected one that starts with the line 'ply'")
    if not (end := re.search(rb"\nend_header[ \t]*\r?\n", head)):
        raise _MalformedError("has no 'end_header' where one is expected; fetch it again")
    stream.seek(end.end())
    layout, elements = "", list[_Element]()
    for line in head[: end.start()].decode("latin-1").split("\n")[1:]:
        match line.split():
            case [] | ["comment" | "obj_info", *_]:
                pass
            case ["format", "ascii" | "binary_little_endian" | "binary_big_endian" as layout, "1.0"]:
                pass
            case ["element", name, count] if re.fullmatch(r"[0-9]{1,15}", count):
                if any(element.name == name for element in elements):
                    raise _MalformedError(f"declares {name!r} twice")
                elements.append(_Element(name, int(count), ()))
            case ["property", kind, name] if elements and kind in _TYPES:
                _declare(elements, _Property(name, _TYPES[kind], None))
            case ["property", "list", length, kind, name] if elements and {length, kind} <= _TYPES.keys():
                _declare(elements, _Property(name, _TYPES[kind], _TYPES[length]))
            case _:
                raise _MalformedError(f"has the header line {line.strip()[:60]!r}, which is not understood")
    if not layout:
        raise _MalformedError("does not say its format; expected 'format ascii 1.0' or a binary one")
    return layout, elements


def _declare(elements: list[_Element], declared: _Property) -> None:
    last = elements[-1]
    if any(known.name == declared.name for known in last.properties):
        raise _MalformedError(f"declares {declared.name!r} of {last.name!r} twice")
    elements[-1] = _Element(last.name, last.count, (*last.properties, declared))


def _require_room(element: _Element, layout: str, left: int) -> None:
    """Refuse a count that the rest of the file cannot hold, before anything of that size is allocated."""
    if layout == "ascii":
        least = 2 * len(element.properties)  # a digit and what separates it from the next
        least -= not left  # the last line may lack its end
    else:
        least = sum(np.dtype(known.count_type or known.type).itemsize for known in element.properties)
    if element.count and (not least or element.count * least > left + 1):
        raise _MalformedError(f"claims {element.count} of {element.name!r}, but has room for fewer; fetch it again")


def _read_table(element: _Element, layout: str, stream: BinaryIO) -> NDArray[np.float64]:
    """The rows of an element, one column per number; lists are led by their length, the same in all rows."""
    if not element.count:
        return np.empty((0, len(element.properties)))
    if layout == "ascii":
        return _read_text(element, stream)
    order, fields, start = _ORDERS[layout], list[tuple[str, str]](), stream.tell()
    for known in element.properties:
        if known.count_type is None:
            fields.append((f"{len(fields)}", order + known.type))
            continue
        stream.seek(start + np.dtype(fields).itemsize)
        length = np.frombuffer(_exactly(stream, element, np.dtype(known.count_type).itemsize), order + known.count_type)
        sides = _polygon_size(float(length[0]))
        fields.append((f"{len(fields)}", order + known.count_type))
        fields += [(f"{len(fields) + i}", order + known.type) for i in range(sides)]
    stream.seek(start)
    row = np.dtype(fields)
    content = _exactly(stream, element, element.count * row.itemsize)
    rows = np.frombuffer(content, row)
    return np.stack([rows[name].astype(np.float64) for name, _ in fields], axis=1)


def _read_text(element: _Element, stream: BinaryIO) -> NDArray[np.float64]:
    def lines() -> Iterator[str]:
        for line in islice(stream, element.count):
            yield line.decode("latin-1")

    try:
        table = np.loadtxt(lines(), comments=None, ndmin=2)
    except ValueError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise _MalformedError(f"has rows of {element.name!r} that cannot be read ({reason}); fetch it again") from None
    if len(table) != element.count:
        raise _MalformedError(f"claims {element.count} of {element.name!r}, but holds {len(table)}; fetch it again")
    return table


def _exactly(stream: BinaryIO, element: _Element, size: int) -> bytes:
    here = stream.tell()
    available = stream.seek(0, 2) - here
    stream.seek(here)
    if size > available:
        raise _MalformedError(f"ends within its {element.name!r}; fetch it again")
    return stream.read(size)


def _polygon_size(length: float) -> int:
    if not 3 <= length <= 64 or length != int(length):
        raise _MalformedError(f"has a polygon of {length:g} corners; expected 3 (up to 64 are cut into triangles)")
    return int(length)


def _named(elements: list[_Element], name: str) -> _Element:
    for element in elements:
        if element.name == name:
            return element
    raise _MalformedError(f"declares no {name!r}; expected a mesh of vertices and faces")


def _vertices(elements: list[_Element], tables: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
    element = _named(elements, "vertex")
    names = [known.name for known in element.properties]
    if not {"x", "y", "z"} <= set(names) or any(known.count_type for known in element.properties):
        raise _MalformedError("declares vertices without x, y and z as single numbers")
    table = tables["vertex"]
    if table.shape[1] != len(names):
        raise _MalformedError(f"has {table.shape[1]} numbers per vertex; expected the declared {len(names)}")
    return np.ascontiguousarray(table[:, [names.index(axis) for axis in "xyz"]])


def _triangles(elements: list[_Element], tables: dict[str, NDArray[np.float64]]) -> NDArray[np.int32]:
    element = _named(elements, "face")
    lists = [known for known in element.properties if known.count_type]
    if len(lists) != 1 or lists[0].name not in ("vertex_indices", "vertex_index"):
        raise _MalformedError("declares faces without exactly one list, vertex_indices")
    table, column = tables["face"], element.properties.index(lists[0])
    if not len(table):
        raise _MalformedError("holds no faces; expected a mesh")
    sides = _polygon_size(float(table[0, column])) if column < table.shape[1] else 0
    if table.shape[1] != sides + len(element.properties):
        raise _MalformedError(f"has {table.shape[1]} numbers in a face; expected {sides + len(element.properties)}")
    if (table[:, column] != sides).any():
        raise _MalformedError("has polygons of different sizes; cut them into triangles first")
    corners = table[:, column + 1 : column + 1 + sides]
    if not (np.abs(corners) < 2**31).all() or (corners != np.rint(corners)).any():
        raise _MalformedError("has a face whose vertex indices are no whole numbers")
    indices = corners.astype(np.int32)
    fan = [indices[:, [0, i, i + 1]] for i in range(1, sides - 1)]
    return np.ascontiguousarray(np.stack(fan, axis=1).reshape(-1, 3))
