"""PLY files: what can be read, and everything that may be wrong with one."""

import contextlib
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_datasets import FusionDatasetsError
from fusion_datasets.rendering import Mesh, read_ply

VERTICES = [(0.0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
TRIANGLES = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (2, 0, 3)]
HEAD = """ply
format {format} 1.0
comment a tetrahedron
element vertex {vertices}
property float x
property float y
property float z
property float nx
element face {faces}
property list uchar int vertex_indices
end_header
"""


def ply(layout: str = "ascii", vertices: int = 4, faces: int = 4, body: bytes | None = None) -> bytes:
    if body is None and layout == "ascii":
        rows = [f"{x} {y} {z} 0" for x, y, z in VERTICES] + [f"3 {i} {j} {k}" for i, j, k in TRIANGLES]
        body = "".join(row + "\n" for row in rows).encode()
    elif body is None:
        order = {"binary_little_endian": "<", "binary_big_endian": ">"}[layout]
        body = b"".join(struct.pack(f"{order}4f", *vertex, 0) for vertex in VERTICES)
        body += b"".join(struct.pack(f"{order}B3i", 3, *triangle) for triangle in TRIANGLES)
    return HEAD.format(format=layout, vertices=vertices, faces=faces).encode() + body


def read(folder: Path, content: bytes) -> Mesh:
    (folder / "a.ply").write_bytes(content)
    return read_ply(folder / "a.ply")


@pytest.mark.parametrize("layout", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_a_tetrahedron_comes_back(tmp_path: Path, layout: str) -> None:
    mesh = read(tmp_path, ply(layout))
    assert mesh.vertices.tolist() == [list(vertex) for vertex in VERTICES]
    assert mesh.triangles.tolist() == [list(triangle) for triangle in TRIANGLES]
    assert mesh.is_solid
    assert read(tmp_path, ply(layout).replace(b"\n", b"\r\n", 11) if layout == "ascii" else ply(layout)).is_solid


def test_polygons_are_cut_and_other_columns_skipped(tmp_path: Path) -> None:
    head = (
        "ply\nformat ascii 1.0\nelement camera 1\nproperty double f\nelement vertex 4\nproperty uchar red\n"
        "property double z\nproperty double y\nproperty double x\nelement face 1\nproperty uchar flag\n"
        "property list uint8 uint32 vertex_index\nproperty float area\nend_header\n"
    )
    mesh = read(tmp_path, (head + "35.5\n1 3 2 1\n1 0 0 1\n1 0 1 0\n1 0 1 1\n7 4 0 1 2 3 .5").encode())
    assert mesh.vertices[0].tolist() == [1, 2, 3]
    assert mesh.triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


GOOD, BINARY = ply(), ply("binary_little_endian")
BROKEN = {
    "nothing": (b"", "no PLY file"),
    "html": (b"<html>404</html>", "no PLY file"),
    "header cut": (GOOD[:60], "no 'end_header'"),
    "format": (GOOD.replace(b"ascii 1.0", b"ascii 2.0"), "the header line 'format ascii 2.0'"),
    "no format": (GOOD.replace(b"format ascii 1.0\n", b""), "does not say its format"),
    "type": (GOOD.replace(b"float x", b"quaternion x"), "not understood"),
    "no x": (GOOD.replace(b"float x", b"float w"), "without x, y and z"),
    "x twice": (GOOD.replace(b"float y", b"float x"), "declares 'x' of 'vertex' twice"),
    "no vertices": (GOOD.replace(b"element vertex", b"element point"), "declares no 'vertex'"),
    "no faces": (ply(faces=0, body=b"0 0 0 0\n" * 4), "holds no faces"),
    "no list": (GOOD.replace(b"vertex_indices", b"colours"), "exactly one list"),
    "lie": (ply(vertices=10**14), "claims 100000000000000 of 'vertex', but has room for fewer"),
    "binary lie": (ply("binary_little_endian", faces=10**14), "claims 100000000000000 of 'face'"),
    "one too many": (ply(faces=5), "claims 5 of 'face', but holds 4|room for fewer"),
    "one too few": (ply(faces=3), "holds more than its header claims"),
    "binary cut": (BINARY[:-1], "ends within its 'face'"),
    "binary more": (BINARY + b"\x01", "holds more than its header claims"),
    "text cut": (GOOD[:-4], "cannot be read"),
    "letters": (GOOD.replace(b"3 0 2 1", b"3 0 x 1"), "cannot be read"),
    "index": (GOOD.replace(b"3 0 2 1", b"3 0 2 9"), "a triangle with vertex 9; expected 0 … 3"),
    "negative index": (GOOD.replace(b"3 0 2 1", b"3 0 2 -1"), "a triangle with vertex -1"),
    "broken index": (GOOD.replace(b"3 0 2 1", b"3 0 2 1.5"), "no whole numbers"),
    "infinite index": (GOOD.replace(b"3 0 2 1", b"3 0 2 inf"), "no whole numbers"),
    "undefined": (GOOD.replace(b"1 0 0 0\n", b"nan 0 0 0\n"), "infinite or undefined"),
    "line": (GOOD.replace(b"3 0 2 1", b"2 0 2 1"), "a polygon of 2 corners"),
    "mixed": (GOOD.replace(b"3 2 0 3", b"4 2 0 3"), "different sizes"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    content, sentence = BROKEN[case]
    with pytest.raises(FusionDatasetsError, match=sentence) as caught:
        read(tmp_path, content)
    assert str(caught.value).startswith(str(tmp_path / "a.ply"))
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FusionDatasetsError, match=r"none\.ply cannot be read"):
        read_ply(tmp_path / "none.ply")


def test_lies_cost_no_memory(tmp_path: Path) -> None:
    for content in (ply(vertices=10**9), ply("binary_little_endian", vertices=10**9), ply(faces=10**12)):
        tracemalloc.start()
        with pytest.raises(FusionDatasetsError, match="room for fewer"):
            read(tmp_path, content)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


@given(
    layout=st.sampled_from(["ascii", "binary_little_endian", "binary_big_endian"]),
    counts=st.tuples(*[st.one_of(st.just(4), st.integers(0, 10**6))] * 2),
    edits=st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), max_size=4),
    cut=st.one_of(st.none(), st.integers(0, 400)),
)
def test_whatever_the_bytes_there_is_a_mesh_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
    counts: tuple[int, int],
    edits: list[tuple[int, bytes]],
    cut: int | None,
) -> None:
    content = bytearray(ply(layout, *counts))
    for at, replacement in edits:
        content[at : at + len(replacement)] = replacement
    with contextlib.suppress(FusionDatasetsError):
        mesh = read(tmp_path_factory.mktemp("ply", numbered=True), bytes(content[:cut]))
        assert mesh.triangles.max() < len(mesh.vertices) <= len(content)
        assert np.isfinite(mesh.vertices).all()
