"""Faces that nobody has: parametric portraits in the geometry of CelebA's aligned photographs.

An identity fixes skin, hair, the shape of the head and what else stays; a photograph adds pose, expression, light and
background. Features lie on an ellipsoid that turns with the head, so that they shift as in a photograph.

Coordinates are pixels of the 178×218 frame, `x` to the right and `y` down; points are float arrays `[n, 2]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

RENDERER: Final = 1
"""Counts up whenever the same seed comes to mean other images."""

WIDTH, HEIGHT = 178, 218
_CENTRE_X, _EYES_Y = 89.0, 112.0
_SHIFT: Final = 4  # binary digits after the point in the coordinates that OpenCV draws with
_IDENTITY, _PHOTOGRAPH = 0, 1

Points = NDArray[np.float32]
Colour = NDArray[Any]
Outline = Sequence[tuple[float, float]]

_SKINS: Final = ((255, 224, 200), (244, 205, 172), (228, 184, 148), (205, 154, 116), (168, 116, 82), (122, 80, 56), (86, 56, 42))  # fmt: skip # noqa: E501
_HAIRS: Final = ((24, 20, 20), (52, 36, 28), (88, 58, 38), (132, 90, 52), (196, 156, 96), (226, 196, 140), (150, 66, 34), (168, 166, 164))  # fmt: skip # noqa: E501
_IRISES: Final = ((70, 44, 26), (98, 66, 36), (92, 112, 74), (84, 124, 156), (116, 130, 138))
_BACKDROPS: Final = ((206, 214, 220), (58, 66, 84), (168, 62, 58), (64, 118, 112), (222, 196, 156), (120, 108, 150), (34, 34, 38), (148, 176, 204), (196, 140, 84), (96, 128, 78))  # fmt: skip # noqa: E501
_CLOTHES: Final = ((32, 36, 48), (236, 234, 228), (150, 36, 44), (44, 84, 132), (92, 112, 86), (206, 160, 70), (112, 70, 110), (70, 70, 74))  # fmt: skip # noqa: E501


@dataclass(frozen=True)
class Identity:
    """What stays the same in all photographs of one person; shapes are relative to an average of 1."""

    skin: Colour
    hair: Colour
    iris: Colour
    width: float
    length: float
    jaw: float
    eye_size: float
    eye_gap: float
    nose_width: float
    lip_size: float
    brow_size: float
    hair_style: int
    hair_volume: float
    beard: float
    freckles: bool
    lipstick: bool
    wears_glasses: bool

    @classmethod
    def draw(cls, seed: int, identity: int) -> "Identity":
        """The person of this number: a function of its arguments alone."""
        g = _generator(seed, _IDENTITY, identity)
        skin = _between(_SKINS, g)
        dark = 1 - skin.mean() / 255
        hair = _between(_HAIRS[: 3 if dark > 0.55 else len(_HAIRS)], g, blend=0.25)
        man = g.random() < 0.45
        return cls(
            skin=skin,
            hair=hair,
            iris=_between(_IRISES[: 2 if dark > 0.45 else len(_IRISES)], g, blend=0.3),
            width=g.uniform(0.92, 1.08),
            length=g.uniform(0.94, 1.06),
            jaw=g.uniform(0.78, 0.95) + 0.06 * man,
            eye_size=g.uniform(0.88, 1.15),
            eye_gap=g.uniform(0.95, 1.06),
            nose_width=g.uniform(0.85, 1.2),
            lip_size=g.uniform(0.75, 1.25) * (0.85 if man else 1.05),
            brow_size=g.uniform(0.7, 1.2) * (1.3 if man else 0.9),
            hair_style=int(g.integers(0, 3) if man else g.integers(2, 6)),
            hair_volume=g.uniform(0.85, 1.25),
            beard=float(man and g.random() < 0.45) * g.uniform(0.25, 0.9),
            freckles=bool(dark < 0.3 and g.random() < 0.2),
            lipstick=bool(not man and g.random() < 0.55),
            wears_glasses=bool(g.random() < 0.2),
        )


def render_face(seed: int, identity: int, index: int) -> NDArray[np.uint8]:
    """Render one photograph.

    Arguments:
        seed: Of all of them, ≥ 0.
        identity: Who it shows, ≥ 0.
        index: Which photograph it is, ≥ 0.

    Returns:
        uint8 `[218, 178, 3]`, RGB.
    """
    return _Portrait(Identity.draw(seed, identity), _generator(seed, _PHOTOGRAPH, index)).render()


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, number)))


def _between(palette: tuple[tuple[int, int, int], ...], g: np.random.Generator, blend: float = 1.0) -> Colour:
    """A colour of the palette, mixed with its neighbour and a little off."""
    i = int(g.integers(len(palette)))
    j = min(i + 1, len(palette) - 1)
    colour = np.array(palette[i], np.float32)
    colour += (np.array(palette[j], np.float32) - colour) * np.float32(blend * g.random())
    return np.clip(colour * np.float32(g.uniform(0.94, 1.05)), 0, 255)


def _curve(points: Outline, per_piece: int = 8) -> Points:
    """A closed Catmull-Rom curve through the points."""
    p = np.array(points, np.float32)
    before, after, beyond = (np.roll(p, shift, axis=0) for shift in (1, -1, -2))
    t = (np.arange(per_piece, dtype=np.float32) / per_piece)[None, :, None]
    a, b, c, d = (array[:, None] for array in (before, p, after, beyond))
    pieces = b + t * (c - a) / 2 + t**2 * (a - 2.5 * b + 2 * c - d / 2) + t**3 * (1.5 * (b - c) + (d - a) / 2)
    return pieces.astype(np.float32).reshape(-1, 2)


def _mirrored(points: Outline) -> list[tuple[float, float]]:
    """The right half of an outline, from top to bottom, made whole."""
    return [*points, *((-x, y) for x, y in reversed(points) if x)]


class _Layer(NamedTuple):
    """Where paint goes: weights in [0, 1] `[h, w]` of a part of the frame, from its row `top` and column `left` on."""

    top: int
    left: int
    weight: NDArray[np.float32]

    @property
    def region(self) -> tuple[slice, slice]:
        """The part of the frame."""
        h, w = self.weight.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)

    def within(self, other: "_Layer") -> "_Layer":
        """What of it lies in another layer."""
        frame = np.zeros((HEIGHT, WIDTH), np.float32)
        frame[other.region] = other.weight
        return self._replace(weight=self.weight * frame[self.region])

    def outside(self, other: "_Layer") -> "_Layer":
        """What of it lies outside another layer."""
        return self._replace(weight=self.weight - self.within(other).weight)


class _Portrait:
    """One photograph in the making: layers are painted from the back to the front."""

    def __init__(self, who: Identity, g: np.random.Generator) -> None:
        self._who, self._g = who, g
        self._yaw, self._pitch = g.normal(0, 0.24), g.normal(0, 0.08)
        roll = g.normal(0, 0.05)
        self._roll = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]], np.float32)
        self._smile, self._open = g.uniform(-0.25, 1), max(0.0, g.normal(0.15, 0.35))
        self._lids = float(np.clip(g.normal(1, 0.12), 0.45, 1.2))
        self._gaze = g.normal(0, 1.2, 2)
        self._light = np.array([g.normal(0, 0.65), g.uniform(-0.7, 0.1), 1.0])
        self._light /= np.linalg.norm(self._light)
        self._contrast = g.uniform(0.25, 0.65)
        tint, exposure = g.normal(0, 0.06), g.uniform(0.8, 1.06)
        self._warmth = np.array([1 + tint, 1, 1 - tint], np.float32) * np.float32(exposure)
        self._glasses = int(g.random() < (0.75 if who.wears_glasses else 0.04)) * int(g.integers(1, 4))
        self._half_width, self._top, self._chin = 45 * who.width, -52.0 * who.length, 65 * who.length
        self._image = np.empty((HEIGHT, WIDTH, 3), np.float32)

    def render(self) -> NDArray[np.uint8]:
        layers: tuple[Callable[[], None], ...] = (
            *(self._backdrop, self._hair_behind, self._body, self._ears, self._face, self._cheeks, self._nose),
            *(self._eyes, self._mouth, self._facial_hair, self._brows, self._hair_in_front, self._spectacles),
        )
        for paint in layers:
            paint()
        image = self._image * self._warmth
        image += 2.2 * self._g.standard_normal(image.shape, np.float32)
        return np.rint(np.clip(image, 0, 255)).astype(np.uint8)

    def _place(self, points: NDArray[Any] | Outline, depth: float = 0.0) -> Points:
        """From the head's own coordinates, between the eyes and at `depth` before its axis, into the frame."""
        p = np.array(points, np.float32).reshape(-1, 2)
        x = p[:, 0] * np.float32(np.cos(self._yaw)) + np.float32(depth * np.sin(self._yaw))
        y = p[:, 1] + np.float32(depth * np.sin(self._pitch))
        shifted = np.stack([x - np.float32(22 * np.sin(self._yaw)), y], axis=1)  # the eyes stay where they are
        return shifted @ self._roll.T + np.array([_CENTRE_X, _EYES_Y], np.float32)

    def _mask(self, outline: Points, blur: float = 0.0) -> _Layer:
        return _drawn([outline], blur, 0)

    def _stroke(self, line: Points, width: int, blur: float = 0.0) -> _Layer:
        return _drawn([line], blur, width)

    def _paint(self, layer: _Layer, colour: Colour | tuple[int, ...], opacity: float = 1.0) -> None:
        part = self._image[layer.region]
        part += (np.asarray(colour, np.float32) - part) * (layer.weight * np.float32(opacity))[..., None]

    def _backdrop(self) -> None:
        g = self._g
        one, two = (_between(_BACKDROPS, g) for _ in range(2))
        angle = g.uniform(0, 2 * np.pi)
        y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
        slope = 0.5 + 0.35 * (np.cos(angle) * x + np.sin(angle) * y)
        self._image[:] = one + (two - one) * slope[..., None].astype(np.float32)
        for _ in range(int(g.integers(0, 7))):
            centre, size = g.uniform(0, 1, 2) * (WIDTH, HEIGHT), g.uniform(8, 45)
            spot = centre + size * np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 24)), np.sin(t)], axis=1)
            self._paint(self._mask(spot.astype(np.float32), g.uniform(1, 9)), _between(_BACKDROPS, g), 0.5)

    def _body(self) -> None:
        neck = [(22, 30), (23, 78), (0, 92)]
        cloth, drop = _between(_CLOTHES, self._g), self._g.uniform(84, 96)
        shoulders = [(0, drop), (24, drop - 10), (62, drop + 4), (98, drop + 26), (104, 140)]
        self._paint(self._mask(self._place(_mirrored(shoulders), -14), 0.8), cloth)
        self._paint(self._mask(self._place(_curve(_mirrored(neck)), -8), 0.8), self._who.skin * np.float32(0.72))
        collar = self._stroke(self._place([(-25, drop - 14), (0, drop + 6), (25, drop - 14)], -8), 2, 0.6)
        self._paint(collar, cloth * np.float32(0.7), 0.8)

    def _outline(self, grow: float = 0.0) -> Points:
        w, top, chin, jaw = self._half_width + grow, self._top - grow, self._chin + grow, self._who.jaw
        half = [(0, top), (w * 0.62, top * 0.86), (w * 0.97, top * 0.42), (w, 4), (w * 0.95, chin * 0.42), (w * jaw * 0.82, chin * 0.72), (w * jaw * 0.42, chin * 0.95), (0, chin)]  # fmt: skip # noqa: E501
        return self._place(_curve(_mirrored(half)))

    def _ears(self) -> None:
        for side in (-1, 1):
            x = side * (self._half_width + 1.5)
            ear = [(x - side * 4, -6), (x + side * 5, -8), (x + side * 6, 6), (x + side * 1, 20), (x - side * 4, 18)]
            self._paint(self._mask(self._place(_curve(ear), -4), 0.8), self._who.skin * np.float32(0.82))

    def _face(self) -> None:
        face = self._mask(self._outline(), 0.7)
        chin = self._mask(self._outline() + np.array([0, 7], np.float32), 4)
        self._paint(chin, self._who.skin * np.float32(0.45), 0.4)
        y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
        u = (x - _CENTRE_X + np.float32(22 * np.sin(self._yaw))) / np.float32(self._half_width * 1.12)
        v = (y - _EYES_Y - 6) / np.float32(72)
        z = np.sqrt(np.clip(1 - u**2 - v**2, 0.02, 1))
        lambert = np.clip(u * self._light[0] + v * self._light[1] + z * self._light[2], 0, 1).astype(np.float32)
        shade = np.float32(1.03 - self._contrast) + np.float32(self._contrast) * lambert
        tone = self._who.skin * shade[..., None] + np.float32(18 * self._contrast) * lambert[..., None] ** 12
        self._paint(face, np.clip(tone, 0, 250)[face.region])

    def _cheeks(self) -> None:
        blush = self._who.skin * np.array([1.0, 0.78, 0.76], np.float32)
        for side in (-1, 1):
            cheek = _curve([(side * 26 + 9 * np.cos(t), 26 + 7 * np.sin(t)) for t in np.linspace(0, 5.5, 8)], 3)
            self._paint(self._mask(self._place(cheek, 14), 5), blush, 0.45)
        if self._who.freckles:
            for x, y in self._g.normal((0, 20), (17, 5), (26, 2)):
                dot = self._stroke(self._place([(x, y), (x + 0.5, y)], 16), 1, 0.5)
                self._paint(dot, self._who.skin * np.float32(0.6), 0.7)

    def _nose(self) -> None:
        w, shadow = 8.0 * self._who.nose_width, self._who.skin * np.float32(0.62)
        side = -1.0 if self._light[0] > 0 else 1.0
        ridge = self._place([(side * 4.2, -4), (side * 4.6, 12), (side * w, 26)], 24)
        self._paint(self._stroke(ridge, 4, 2.2), shadow, 0.5)
        base = _curve([(-w, 27), (-w * 0.45, 31), (0, 33), (w * 0.45, 31), (w, 27), (0, 28.5)])
        self._paint(self._mask(self._place(base, 27), 1.0), shadow, 0.65)
        for x in (-0.48 * w, 0.48 * w):
            self._paint(self._stroke(self._place([(x - 1.6, 29.4), (x + 1.6, 29.4)], 27), 2, 0.6), shadow * 0.5, 0.8)
        light = self._stroke(self._place([(-side * 1.2, 2), (-side * 1.2, 22)], 28), 3, 1.8)
        self._paint(light, np.minimum(self._who.skin * np.float32(1.2) + 12, 255), 0.4)

    def _eyes(self) -> None:
        who, size = self._who, 10.5 * self._who.eye_size
        for side in (-1, 1):
            x, lid = side * 20.5 * who.eye_gap, 5.6 * who.eye_size * self._lids * (1 - 0.12 * max(0, self._smile))
            socket = _curve([(x - size - 2, 0), (x, -lid - 5), (x + size + 2, 0), (x, lid + 3)])
            self._paint(self._mask(self._place(socket, 14), 3.5), who.skin * np.float32(0.7), 0.5)
            upper = [(x - size, 1.5), (x - size * 0.45, -lid * 0.85), (x + size * 0.25, -lid), (x + size, -0.5)]
            almond = self._mask(self._place(_curve([*upper, (x + size * 0.3, lid * 0.62), (x - size * 0.4, lid * 0.7)]), 14), 0.5)  # fmt: skip # noqa: E501
            self._paint(almond, (238, 234, 230))
            centre = np.array([x, -0.6]) + self._gaze
            turn = np.linspace(0, 2 * np.pi, 20)
            for radius, colour in (
                (5.2, who.iris * np.float32(0.55)),
                (4.4, who.iris),
                (2.1, np.array([12, 10, 10])),
            ):
                disc = centre + radius * np.sqrt(who.eye_size) * np.stack([np.cos(turn), np.sin(turn)], axis=1)
                self._paint(self._mask(self._place(disc, 15), 0.4).within(almond), colour)
            glint = centre + np.array([1.6 * np.sign(self._light[0]), -1.7])
            self._paint(self._stroke(self._place([tuple(glint), tuple(glint + 0.6)], 15), 1, 0.4), (255, 255, 255), 0.9)
            self._paint(self._stroke(self._place(upper, 14), 2, 0.5), np.minimum(who.hair, 60) * 0.6, 0.9)
            crease = [(px, py - 3.2) for px, py in upper]
            self._paint(self._stroke(self._place(crease, 13), 1, 0.8), who.skin * np.float32(0.5), 0.6)

    def _brows(self) -> None:
        lift = self._g.normal(0, 1.6)
        for side in (-1, 1):
            inner, outer = side * 9.5, side * 33
            arc = [(inner, -13 - lift), (side * 22, -18.5 - lift), (outer, -12.5 - lift)]
            back = [
                (side * 22, -15.6 - lift + 0.6 * self._who.brow_size),
                (inner, -13 - lift + 4.2 * self._who.brow_size),
            ]
            brow = self._mask(self._place(_curve([*arc, *back], 6), 14), 0.9)
            self._paint(brow, self._who.hair * np.float32(0.75), 0.85)

    def _mouth(self) -> None:
        who, smile = self._who, self._smile
        w, y, gap = 17.5 + 4.5 * max(0.0, smile), 45.0, 5.5 * min(self._open, 1.2) + 1.6 * max(0.0, smile)
        corner, lip = y - 4.5 * smile, 4.6 * who.lip_size
        tint = np.array([0.92, 0.5, 0.52] if who.lipstick else [0.9, 0.66, 0.64], np.float32)
        colour = who.skin * tint * np.float32(0.95)
        whole = [(-w, corner), (-w * 0.4, y - lip), (0, y - lip * 0.75), (w * 0.4, y - lip), (w, corner), (w * 0.5, y + gap + lip * 1.1), (0, y + gap + lip * 1.5), (-w * 0.5, y + gap + lip * 1.1)]  # fmt: skip # noqa: E501
        inside = [(-w * 0.86, corner), (0, y + 0.2), (w * 0.86, corner), (w * 0.42, y + gap * 0.8), (0, y + gap), (-w * 0.42, y + gap * 0.8)]  # fmt: skip # noqa: E501
        under = self._stroke(self._place([(-7, y + gap + lip * 1.9), (7, y + gap + lip * 1.9)], 20), 4, 2.5)
        self._paint(under, who.skin * np.float32(0.6), 0.5)
        self._paint(self._mask(self._place(_curve(whole), 20), 0.7), colour)
        hollow = self._mask(self._place(_curve(inside), 20), 0.5)
        self._paint(hollow, (70, 26, 28))
        if gap > 2:
            teeth = [(-w * 0.7, corner), (0, y + 0.3), (w * 0.7, corner), (w * 0.35, y + gap * 0.55), (-w * 0.35, y + gap * 0.55)]  # fmt: skip # noqa: E501
            self._paint(self._mask(self._place(_curve(teeth), 20), 0.5).within(hollow), (240, 236, 228))
        shine = self._stroke(self._place([(-5, y + gap + lip * 0.7), (4, y + gap + lip * 0.7)], 21), 2, 1.2)
        self._paint(shine, (255, 240, 236), 0.3)
        for side in (-1, 1):
            fold = [(side * 12, 30), (side * (w + 3), corner - 4), (side * (w + 4), corner + 5)]
            self._paint(self._stroke(self._place(fold, 18), 2, 1.8), who.skin * np.float32(0.6), 0.45 * max(0.0, smile))

    def _facial_hair(self) -> None:
        if not self._who.beard:
            return
        w, chin = self._half_width, self._chin
        gap = 6 * min(self._open, 1.2)
        half = [(0, 36.5), (15, 37), (24, 40), (w * 0.8, 24), (w * 0.97, 12), (w * 0.9, chin * 0.55), (w * 0.4, chin), (0, chin + 3)]  # fmt: skip # noqa: E501
        hair = self._mask(self._place(_curve(_mirrored(half)), 4), 1.8)
        lips = self._mask(self._place(_curve([(-20, 45), (0, 40), (20, 45), (0, 55 + gap)]), 20), 1.4)
        grain = self._g.uniform(0.6, 1, (HEIGHT, WIDTH)).astype(np.float32)
        stubble = hair.outside(lips).within(_Layer(0, 0, grain))
        self._paint(stubble, self._who.hair * np.float32(0.8), self._who.beard)

    def _locks(self, shape: _Layer, outline: Points) -> None:
        """Fill a shape with hair: its colour, and strands that run down from the crown."""
        who, g = self._who, self._g
        self._paint(shape, who.hair)
        crown = self._place([(0, self._top - 14 * who.hair_volume)])[0]
        strands: tuple[list[Points], list[Points]] = [], []
        for end in outline[g.integers(0, len(outline), 70)]:
            bend = (crown + end) / 2 + (end - crown)[::-1] * np.array([0.25, -0.25]) * np.sign(end[0] - crown[0])
            line = np.array([crown + g.normal(0, 5, 2), bend + g.normal(0, 4, 2), end + g.normal(0, 5, 2)])
            strands[int(g.integers(2))].append(_bezier(line.astype(np.float32)))
        dark, bright = (_drawn(lines, 0.7, 1).within(shape) for lines in strands)
        self._paint(dark, who.hair * np.float32(0.55), 0.6)
        self._paint(bright, np.minimum(who.hair * np.float32(1.35) + 14, 255), 0.5)

    def _hair_behind(self) -> None:
        style, v = self._who.hair_style, self._who.hair_volume
        if style < 2:
            return
        length = (18, 30, 84, 104)[style - 2]
        w, top = self._half_width + 9 * v, self._top - 10 * v
        half = [(0, top), (w * 0.66, top * 0.88), (w * 1.02, top * 0.3), (w * 1.06, 10), (w * (1.12 if style > 3 else 0.98), length * 0.7), (w * 0.8, length), (0, length)]  # fmt: skip # noqa: E501
        outline = self._place(_curve(_mirrored(half)), -10)
        self._locks(self._mask(outline, 1.0), outline)

    def _hair_in_front(self) -> None:
        who, w, top, v = self._who, self._half_width, self._top, self._who.hair_volume
        if who.hair_style == 0 and who.hair_volume < 0.93:
            return  # bald
        part = (self._g.random() - 0.5) * 30 if who.hair_style != 5 else 0.0
        line = (0.62, 0.56, 0.52, 0.5, 0.48, 0.3)[who.hair_style] * top  # the fringe of style 5 hides the forehead
        lift, side = 6 + 8 * v, (-0.08, 0.02, 0.1, 0.3, 0.35, 0.35)[who.hair_style] * 60
        outer = [(-w * 1.03, side), (-w * 1.07, top * 0.4), (-w * 0.72, top - lift * 0.5), (0, top - lift), (w * 0.72, top - lift * 0.5), (w * 1.07, top * 0.4), (w * 1.03, side)]  # fmt: skip # noqa: E501
        inner = [(w * 0.93, side * 0.6 - 6), (w * 0.86, line * 0.75), (part + 14, line * 1.05), (part, line * 1.2), (part - 14, line * 1.02), (-w * 0.86, line * 0.75), (-w * 0.93, side * 0.6 - 6)]  # fmt: skip # noqa: E501
        outline = self._place(_curve([*outer, *inner]), 4)
        self._paint(self._mask(outline, 3), who.skin * np.float32(0.5), 0.35)
        self._locks(self._mask(outline, 0.9), outline)

    def _spectacles(self) -> None:
        if not self._glasses:
            return
        frame = _between(_CLOTHES, self._g) * np.float32(0.5)
        for side in (-1, 1):
            x, w, h = side * 21.0, 15.5, 10.5 if self._glasses != 2 else 12.5
            squareness = (2.0, 4.0, 2.6)[self._glasses - 1]
            turn = np.linspace(0, 2 * np.pi, 40)
            ring = [np.sign(f) * np.abs(f) ** (2 / squareness) for f in (np.cos(turn), np.sin(turn))]
            lens = self._place(np.stack([x + w * ring[0], 1.5 + h * ring[1]], axis=1), 20)
            self._paint(self._mask(lens, 0.4), (26, 24, 28) if self._glasses == 3 else (235, 240, 245), (0.08, 0.06, 0.9)[self._glasses - 1])  # fmt: skip # noqa: E501
            self._paint(self._stroke(lens, 2, 0.3), frame)
            arm = np.concatenate(
                [self._place([(side * 36.5, -1)], 20), self._place([(side * (self._half_width + 2), -2)], 0)]
            )
            self._paint(self._stroke(arm, 2, 0.4), frame)
        self._paint(self._stroke(self._place([(-6, 0), (0, -1.5), (6, 0)], 24), 2, 0.3), frame)


def _drawn(shapes: list[Points], blur: float, width: int) -> _Layer:
    """Lines of a width, or filled outlines where it is 0, in the smallest part of the frame that holds them."""
    points = np.concatenate([np.zeros((0, 2), np.float32), *shapes])
    margin = 2 + width + 4 * blur
    low = np.clip(np.floor(points.min(axis=0, initial=WIDTH) - margin), 0, (WIDTH - 1, HEIGHT - 1)).astype(int)
    high = np.clip(np.ceil(points.max(axis=0, initial=0) + margin), low + 1, (WIDTH, HEIGHT)).astype(int)
    mask = np.zeros((high - low)[::-1], np.uint8)
    fixed = [np.rint((shape - low.astype(np.float32)) * (1 << _SHIFT)).astype(np.int32) for shape in shapes]
    if width:
        cv2.polylines(mask, fixed, False, 255, width, cv2.LINE_AA, _SHIFT)
    else:
        cv2.fillPoly(mask, fixed, 255, cv2.LINE_AA, _SHIFT)
    if blur:
        mask = cv2.GaussianBlur(mask, (0, 0), blur).astype(np.uint8, copy=False)
    return _Layer(int(low[1]), int(low[0]), mask.astype(np.float32) / np.float32(255))


def _bezier(line: Points) -> Points:
    t = np.linspace(0, 1, 10, dtype=np.float32)[:, None]
    return (1 - t) ** 2 * line[0] + 2 * t * (1 - t) * line[1] + t**2 * line[2]
