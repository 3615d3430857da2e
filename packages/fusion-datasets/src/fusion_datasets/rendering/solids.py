"""Thirty solids in the manner of T-LESS: lamp holders, sockets, plugs, switches and junction boxes of one colour.

They are put together from lofts: outlines at heights, joined into a skin. Where two solids overlap, the surface of one
is hidden inside the other. All lengths are millimetres; z points up.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.rendering.mesh import Mesh, merged

Outline = NDArray[np.float64]
"""Points `[_CORNERS, 2]` around the origin, counter-clockwise seen from above."""

_CORNERS: Final = 72
_ROUND: Final = 2 * np.pi * np.arange(_CORNERS) / _CORNERS


def circle(radius: float) -> Outline:
    """A circle around the origin."""
    return radius * np.stack([np.cos(_ROUND), np.sin(_ROUND)], axis=1)


def rectangle(width: float, depth: float, corner: float) -> Outline:
    """A rectangle around the origin with rounded corners of a radius."""
    inner = np.array([width, depth]) / 2 - corner
    # A quarter of the points lies on each corner's arc; the sides are what joins them.
    arc = np.linspace(0, np.pi / 2, _CORNERS // 4)
    quarters = [(1, 1, arc), (-1, 1, arc + np.pi / 2), (-1, -1, arc + np.pi), (1, -1, arc + 1.5 * np.pi)]
    outline = np.concatenate(
        [inner * (x, y) + corner * np.stack([np.cos(a), np.sin(a)], axis=1) for x, y, a in quarters]
    )
    return np.roll(outline, -_CORNERS // 8 + _CORNERS // 4, axis=0)


def gear(radius: float, depth: float, teeth: int) -> Outline:
    """A circle with a wavy rim, as of a grip."""
    return circle(1.0) * (radius - depth * (0.5 + 0.5 * np.cos(teeth * _ROUND)))[:, None]


def loft(*rings: tuple[Outline, float], hollow: bool = False) -> Mesh:
    """Join outlines at heights into a skin.

    Arguments:
        rings: In the order in which they follow each other on the surface, the outside on the right of their path in
            the (radius, z) half-plane.
        hollow: Whether the last ring joins the first, as in a tube; otherwise both are closed by a fan.
    """
    vertices = np.concatenate([np.column_stack([outline, np.full(_CORNERS, z)]) for outline, z in rings])
    i, after = np.arange(_CORNERS), (np.arange(_CORNERS) + 1) % _CORNERS
    triangles = []
    for ring in range(len(rings) - (not hollow)):
        low, high = ring * _CORNERS, (ring + 1) % len(rings) * _CORNERS
        triangles += [
            np.stack([low + i, low + after, high + after], 1),
            np.stack([low + i, high + after, high + i], 1),
        ]
    if not hollow:
        last = (len(rings) - 1) * _CORNERS
        centres = [[*outline.mean(0), z] for outline, z in (rings[0], rings[-1])]
        triangles += [
            np.stack([after, i, np.full(_CORNERS, len(vertices))], 1),
            np.stack([last + i, last + after, np.full(_CORNERS, len(vertices) + 1)], 1),
        ]
        vertices = np.concatenate([vertices, centres])
    return Mesh(vertices, np.concatenate(triangles).astype(np.int32))


def turned(profile: Sequence[tuple[float, float]], *, hollow: bool = False) -> Mesh:
    """Turn a profile of (radius, z) on a lathe; see `loft`."""
    return loft(*((circle(radius), z) for radius, z in profile), hollow=hollow)


def placed(mesh: Mesh, x: float = 0, y: float = 0, z: float = 0, *, facing: str = "+z") -> Mesh:
    """Turn a part's +z towards an axis (`"+x"`, `"-y"`, …), then move it."""
    axis, sign = "xyz".index(facing[1]), 1.0 if facing[0] == "+" else -1.0
    towards = sign * np.eye(3)[axis]
    side = np.eye(3)[(axis + 1) % 3]
    rotation = np.stack([side, np.cross(towards, side), towards], axis=1)
    return Mesh(mesh.vertices @ rotation.T + (x, y, z), mesh.triangles)


def box(width: float, depth: float, height: float, corner: float = 3.0) -> Mesh:
    """A box on z = 0 with rounded corners and softened edges."""
    soft = min(1.2, corner / 2)
    shrunk = rectangle(width - 2 * soft, depth - 2 * soft, corner - soft)
    full = rectangle(width, depth, corner)
    return loft((shrunk, 0), (full, soft), (full, height - soft), (shrunk, height))


def pins(*, gap: float = 19.0, length: float = 19.0, radius: float = 2.2) -> Mesh:
    """The two pins of a plug, on z = 0."""
    profile = [(radius, 0), (radius, length - 2), (0.8 * radius, length - 0.7), (0.4 * radius, length)]
    return merged([placed(turned(profile), x=side * gap / 2) for side in (-1, 1)])


def plug(radius: float = 18.0, length: float = 16.0) -> Mesh:
    """The part of a plug that enters a socket, with its pins."""
    body = turned([(radius, 0), (radius, length - 1.5), (radius - 1.5, length)])
    ridge = placed(box(5, 2 * radius + 1.5, length - 3, 1.5), z=0)
    return merged([body, ridge, placed(pins(), z=length - 1)])


def socket(outer: Outline, height: float, *, radius: float = 19.5, sunk: float = 14.0) -> Mesh:
    """A block with a round recess and what a plug meets in it."""
    block = loft(
        (0.97 * outer, 0),
        (outer, 1.2),
        (outer, height - 1.2),
        (0.975 * outer, height),
        (circle(radius + 1), height),
        (circle(radius), height - 1),
        (circle(radius - 0.6), height - sunk),
    )
    contacts = [
        turned([(3.4, 0), (3.4, 2), (2.2, 2), (2.2, 0.6)]),
        placed(turned([(2.2, 0), (2.2, 9), (1, 10.5)]), y=0),
    ]
    floor = height - sunk
    parts = [placed(contacts[0], x=side * 9.5, z=floor - 0.5) for side in (-1, 1)]
    return merged([block, *parts, placed(contacts[1], y=10, z=floor - 0.5)])


def lamp_holder(radius: float, height: float, *, grip: int, neck: float) -> Mesh:
    """A holder for a bulb: a body that narrows towards a threaded neck."""
    rim, low = gear(radius, 0.14 * radius, grip) if grip else circle(radius), 0.34 * height
    hole = 0.52 * radius
    body = loft(
        (circle(0.55 * radius), low),
        (circle(0.8 * radius), low + 2),
        (circle(0.92 * radius), 0.55 * height),
        (rim, 0.62 * height),
        (rim, height - 2),
        (0.9 * rim, height),
        (circle(hole), height),
        (circle(hole), height - 6),
        (circle(0.6 * hole), height - 7),
        (circle(0.6 * hole), height - 16),
    )
    thread = [(neck - 0.8 * (step % 2), low * (0.35 + 0.09 * step)) for step in range(8)]
    return merged([body, turned([(0.4 * neck, 0), (0.6 * neck, 2), (0.6 * neck, 0.3 * low), *thread])])


def tube(bottom: float, top: float, height: float, *, wall: float = 2.6, bands: int = 0) -> Mesh:
    """A tube that may widen, with a step inside and bands around it."""
    step = 0.45 * height
    parts = [
        turned(
            [
                (bottom - 1, 0),
                (bottom, 1),
                (top, height - 1),
                (top - 1, height),
                (top - wall, height),
                (bottom + (top - bottom) * 0.45 - wall, step),
                (0.62 * bottom, step - 2),
                (0.62 * bottom, 0),
            ],
            hollow=True,
        )
    ]
    for band in range(bands):
        z = height * (0.12 + 0.1 * band)
        parts.append(turned([(bottom - 2, z), (bottom + 1.8, z + 0.5), (bottom + 1.8, z + 3), (bottom - 2, z + 3.5)]))
    return merged(parts)


def cover(radius: float, height: float, *, squeeze: float) -> Mesh:
    """A round housing, open at the top, with a holder standing in it."""
    wide, narrow = circle(radius) * (1, squeeze), 0.9 * circle(radius) * (1, squeeze)
    shell = loft((wide, 0), (0.99 * wide, 0.5 * height), (narrow, height), (0.94 * narrow, height), (0.9 * narrow, 5))
    inner = 0.36 * radius
    holder = [(inner, 4), (inner, 0.7 * height), (1.12 * inner, 0.75 * height), (1.12 * inner, height + 3)]
    return merged([shell, turned([*holder, (0.85 * inner, height + 3), (0.8 * inner, 0.4 * height)])])


def flanged(count: int) -> Mesh:
    """Sockets in a row under a flange."""
    pitch = 38.0
    parts = [placed(socket(rectangle(37, 42, 4), 52, radius=15, sunk=18), x=pitch * i) for i in range(count)]
    middle = pitch * (count - 1) / 2
    flange = box(pitch * count + 8, 66, 4, 3)
    return merged([*parts, placed(flange, x=middle, z=34), placed(box(pitch * count - 6, 56, 10, 2), x=middle, z=24)])


def blocks(columns: int, rows: int, width: float, depth: float) -> Mesh:
    """Sockets side by side, each with a terminal at its foot."""
    least = min(width, depth)
    cell = merged(
        [
            socket(rectangle(width - 1.2, depth - 1.2, 5), 46, radius=0.4 * least, sunk=20),
            turned([(0.46 * least, 40), (0.46 * least, 52), (0.4 * least, 52), (0.36 * least, 30)]),
            placed(box(0.5 * width, 9, 14, 2), y=-depth / 2, z=0),
        ]
    )
    return merged([placed(cell, x=width * i, y=depth * j) for i in range(columns) for j in range(rows)])


def adapter(width: float, height: float) -> Mesh:
    """A box between a plug and flat sockets."""
    parts = [placed(plug(16, 14), y=-17, facing="-y"), placed(box(width, 36, height, 5), z=-height / 2)]
    for side in (-1, 1):  # the frame of a flat socket at the front
        frame = loft(
            (rectangle(22, 15, 6), 0),
            (rectangle(21, 14, 6), 1.6),
            (rectangle(18.5, 11.5, 5), 1.6),
            (rectangle(18, 11, 5), -1.0),
        )
        parts.append(placed(frame, x=side * width / 4, y=17.5, facing="+y"))
    return merged([*parts, placed(box(width + 0.8, 1.2, height + 0.8, 0.5), y=4, z=-height / 2 - 0.4)])


def round_adapter(length: float, sockets: int) -> Mesh:
    """A drum with a plug on one side and sockets on others."""
    drum = placed(turned([(19, 0), (21.5, 2), (21.5, length - 2), (19, length)]), x=-length / 2, facing="+x")
    parts = [drum, placed(plug(15, 22), y=-14, facing="-y")]
    places = {"+x": (length / 2 - 12, 0.0), "-x": (12 - length / 2, 0.0), "+z": (0.0, 10.0)}
    part = socket(circle(21.2), 15, radius=17.5, sunk=11)
    parts += [placed(part, x=x, z=z, facing=way) for way, (x, z) in list(places.items())[:sockets]]
    return merged(parts)


def strip(count: int) -> Mesh:
    """Sockets in a row on a plug."""
    pitch = 44.0
    cells = [
        placed(socket(circle(24.5), 34, radius=20, sunk=20), x=pitch * (i - (count - 1) / 2)) for i in range(count)
    ]
    bridge = placed(box(pitch * (count - 1), 34, 32, 3), z=0.5)
    return merged([*cells, bridge, placed(plug(14, 8), z=1, facing="-z")])


def bayonet(radius: float, height: float) -> Mesh:
    """A cylinder with a threaded neck and two studs."""
    thread = [(0.72 * radius - 1.3 * (step % 2), 0.66 * height + 1.6 * step) for step in range(12)]
    body = [(radius - 1, 0), (radius, 1), (radius, 0.62 * height), (0.8 * radius, 0.65 * height)]
    top = [(0.5 * radius, 0.93 * height), (0.3 * radius, height)]
    studs = [placed(turned([(2.4, 0), (2.4, 3.4), (1.4, 4)]), x=s * (radius - 1), z=12, facing=f) for s, f in _SIDES]
    return merged([turned([*body, *thread, *top]), *studs])


_SIDES: Final = ((1.0, "+x"), (-1.0, "-x"))


def switch(width: float, depth: float, *, rockers: int) -> Mesh:
    """A box with rockers on it and a cable gland at its end."""
    parts = [box(width, depth, 40, 4), placed(box(width + 1.6, depth + 1.6, 3, 4), z=22)]
    span = (width - 14) / rockers
    for i in range(rockers):
        x, tilt = -width / 2 + 7 + span * (i + 0.5), 5.0 if i % 2 else -5.0
        rocker = box(span - 2, depth - 16, 9, 2)
        slope = rocker.vertices[:, 2] * (1 + tilt * rocker.vertices[:, 0] / (span * 8))
        parts.append(placed(Mesh(np.column_stack([rocker.vertices[:, :2], slope]), rocker.triangles), x=x, z=38))
    return merged([*parts, *[placed(_gland(8), x=s * (width / 2 - 1), z=14, facing=f) for s, f in _SIDES]])


def junction_box(width: float, depth: float, height: float, *, corner: float, glands: int) -> Mesh:
    """A box with a lid, screws at its corners and glands on its sides."""
    parts = [box(width - 4, depth - 4, height, corner), placed(box(width, depth, 11, corner), z=height - 4)]
    parts.append(placed(box(0.9 * width, 0.9 * depth, 3, corner), z=height + 6))
    screw = turned([(4, 0), (4, 1.2), (2.6, 1.2), (2.4, 0.2)])
    across = max(corner / 3, 5.5)
    across_x, across_y = (width / 2 - across, depth / 2 - across)
    parts += [placed(screw, x=i * across_x, y=j * across_y, z=height + 6.6) for i in (-1, 1) for j in (-1, 1)]
    sides = [("+y", depth), ("-y", depth), ("+x", width), ("-x", width)][:glands]
    for facing, span in sides:
        offset = (span / 2 - 2.5) * (1.0 if facing[0] == "+" else -1.0)
        x, y = (offset, 0.0) if facing[1] == "x" else (0.0, offset)
        parts.append(placed(_gland(0.3 * height), x=x, y=y, z=0.45 * height, facing=facing))
    return merged(parts)


def _gland(radius: float) -> Mesh:
    """Concentric steps that a cable is pushed through."""
    steps = [(radius * (1 - 0.26 * i), height) for i in range(4) for height in (1.4 * i, 1.4 * (i + 1))]
    return turned([(radius, 0), *steps[1:]])


def _centred(mesh: Mesh) -> Mesh:
    middle = (mesh.vertices.min(0) + mesh.vertices.max(0)) / 2
    return Mesh(mesh.vertices - middle, mesh.triangles)


SOLIDS: Final[Mapping[int, Callable[[], Mesh]]] = MappingProxyType(
    {
        1: partial(lamp_holder, 17.5, 61, grip=8, neck=8),
        2: partial(lamp_holder, 21.5, 62, grip=8, neck=9),
        3: partial(lamp_holder, 24, 61, grip=12, neck=12),
        4: partial(lamp_holder, 20, 78, grip=0, neck=9),
        5: partial(blocks, 1, 1, 88, 50),
        6: partial(blocks, 1, 1, 60, 46),
        7: partial(blocks, 3, 1, 49, 76),
        8: partial(blocks, 3, 2, 56, 50),
        9: partial(flanged, 3),
        10: partial(flanged, 1),
        11: partial(junction_box, 46, 44, 30, corner=20, glands=2),
        12: partial(junction_box, 60, 50, 34, corner=23, glands=2),
        13: partial(tube, 18, 20, 46, bands=1),
        14: partial(tube, 16, 22, 65),
        15: partial(tube, 17, 22, 55, bands=3),
        16: partial(tube, 26, 24, 47, bands=1),
        17: partial(cover, 53, 56, squeeze=1.0),
        18: partial(cover, 49, 58, squeeze=0.78),
        19: partial(adapter, 64, 46),
        20: partial(adapter, 82, 46),
        21: partial(round_adapter, 66, 2),
        22: partial(round_adapter, 66, 3),
        23: partial(strip, 3),
        24: partial(bayonet, 21, 80),
        25: partial(switch, 90, 60, rockers=1),
        26: partial(switch, 90, 60, rockers=2),
        27: partial(junction_box, 104, 104, 44, corner=5, glands=0),
        28: partial(junction_box, 92, 92, 36, corner=16, glands=4),
        29: partial(junction_box, 110, 76, 44, corner=5, glands=1),
        30: partial(junction_box, 78, 78, 38, corner=30, glands=4),
    }
)
"""Object id → what builds it; like T-LESS's in size, and in kind where it matters: 19 … 24 have to do with sockets."""


def solid(object_id: int) -> Mesh:
    """Build one of the thirty solids, its middle at the origin."""
    return _centred(SOLIDS[object_id]())
