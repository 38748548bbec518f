"""The place: a floor, a back wall or a landscape, and the light."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from entprog.synthetic.camera import Camera, Framing, draw_framing
from entprog.synthetic.clothes import colour_from_hsv
from entprog.synthetic.domains import Domain
from entprog.synthetic.geometry import Array, unit
from entprog.synthetic.random import choose, random_stream

FAR = 60.0  # metres: nothing beyond is drawn in more detail


@dataclass(frozen=True, slots=True)
class Backdrop:
    """The empty scene as the camera sees it.

    Attributes:
        image: [S, S, 3] in 0..1; is_floor: which pixels are floor [S, S].
        ground: position of each of those on the ground [S, S, 2], in metres.
    """

    image: Array
    is_floor: Array
    ground: Array


@dataclass(frozen=True, slots=True)
class Scene:
    """One place with its light; angles in radians, colours in 0..1."""

    background: str
    floor: str
    framing: Framing
    wall_colour: Array
    second_colour: Array
    floor_colour: Array
    wall_distance: float  # metres behind the person
    phases: Array
    scale: float  # of the wall's pattern, repeats a metre
    blobs: Array  # [N, 7] place, size and colour of the lights of a bokeh
    light: Array  # direction to the light
    ambient: float
    tint: Array

    def draw(self, camera: Camera) -> Backdrop:
        """Draws the empty scene."""
        rays = camera.rays()
        down, ahead = rays[..., 2], rays[..., 1]
        to_floor = np.where(down < -1e-4, -camera.eye[2] / np.minimum(down, -1e-4), 1e9)
        to_wall = np.where(ahead > 1e-4, (self.wall_distance - camera.eye[1]) / np.maximum(ahead, 1e-4), 1e9)
        on_wall = camera.eye + rays * np.minimum(to_wall, FAR)[..., None]
        on_floor = camera.eye + rays * np.minimum(to_floor, FAR)[..., None]
        height = on_wall[..., 2]
        wall = _WALLS[self.background](self, on_wall[..., 0], height)
        wall = wall * (0.92 + 0.08 * np.clip(height / 2, 0, 1))[..., None]
        paint_floor = _FLOORS["grass" if self.background == "outdoor" else self.floor]
        floor = paint_floor(self, on_floor[..., 0], on_floor[..., 1])
        is_floor = to_floor < to_wall
        image = np.clip(np.where(is_floor[..., None], floor, wall), 0, 1).astype(np.float32)
        return Backdrop(image, is_floor, on_floor[..., :2].astype(np.float32))


def draw_scene(seed: int, domain: Domain) -> Scene:
    """Draws the place, light and camera of a seed."""
    rng = random_stream("scene", seed, domain.name)
    warmth = rng.normal(0, 0.03)
    return Scene(
        background=choose(rng, domain.backgrounds),
        floor=choose(rng, domain.floors),
        framing=draw_framing(seed, domain.name),
        wall_colour=colour_from_hsv(rng.random(), rng.uniform(0, 0.35), rng.uniform(0.45, 0.95)),
        second_colour=colour_from_hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.25, 0.9)),
        floor_colour=colour_from_hsv(rng.uniform(0.02, 0.14), rng.uniform(0.1, 0.55), rng.uniform(0.3, 0.8)),
        wall_distance=rng.uniform(1.2, 2.6),
        phases=rng.uniform(0, 2 * np.pi, 12),
        scale=rng.uniform(1.5, 4),
        blobs=rng.random((14, 7)),
        light=unit(np.array([rng.uniform(-0.9, 0.9), -rng.uniform(0.5, 1), rng.uniform(0.5, 1.2)])),
        ambient=rng.uniform(0.42, 0.6),
        # Warm or cool only: a green cast makes people look ill.
        tint=np.array([1 + warmth, 1.0, 1 - warmth]),
    )


def _plain_wall(scene: Scene, x: Array, z: Array) -> Array:
    return np.broadcast_to(scene.wall_colour, (*x.shape, 3))


def _gradient_wall(scene: Scene, x: Array, z: Array) -> Array:
    return scene.wall_colour + (scene.second_colour - scene.wall_colour) * np.clip(z / 3, 0, 1)[..., None]


def _panel_wall(scene: Scene, x: Array, z: Array) -> Array:
    groove = ((x * scene.scale * 0.5 + scene.phases[0]) % 1 < 0.06) | (np.abs(z - 0.9) < 0.03)
    lower_and_upper = np.where((z < 0.9)[..., None], scene.second_colour, scene.wall_colour)
    return np.where(groove[..., None], scene.wall_colour * 0.7, lower_and_upper)


def _papered_wall(scene: Scene, x: Array, z: Array) -> Array:
    """Slanted lozenges of two colours."""
    along, across = (x + 0.7 * z) * scene.scale, (x - 0.7 * z) * scene.scale
    inside = np.sin(np.pi * along) * np.sin(np.pi * across) > 0.35 * np.sin(scene.phases[1])
    return np.where(inside[..., None], scene.second_colour, scene.wall_colour)


def _curtain(scene: Scene, x: Array, z: Array) -> Array:
    """Hanging folds, slightly slanted."""
    way = (x + 0.12 * z * np.sin(scene.phases[2])) * scene.scale * 2.2
    folds = 0.72 + 0.2 * np.sin(way * 2 + scene.phases[3]) + 0.12 * np.sin(way * 4.7 + scene.phases[4])
    return scene.wall_colour * folds[..., None]


def _shelves(scene: Scene, x: Array, z: Array) -> Array:
    """Rows of coloured books between boards."""
    row, height = np.divmod(z * scene.scale * 0.8 + 0.1, 1)
    book = np.floor(x * scene.scale * 2 + 0.37 * row)
    which = np.stack([(np.sin(book * 12.9 + row * 78.2 + k * 3.1 + scene.phases[5]) * 4375.85) % 1 for k in range(4)])
    spine = 0.6 * scene.wall_colour + 0.35 * np.moveaxis(which[:3], 0, -1)
    above = height > 0.55 + 0.3 * which[3]
    books = np.where(above[..., None], scene.second_colour * 0.3, spine)
    return np.where((height < 0.1)[..., None], scene.second_colour, books)


def _hung_wall(scene: Scene, x: Array, z: Array) -> Array:
    """Framed pictures, each of two colours, on a plain wall."""
    image = np.broadcast_to(scene.wall_colour, (*x.shape, 3)).copy()
    for across, up, width, height, *colour in scene.blobs[:9]:
        right, top = np.abs(x - (across * 4 - 2)), np.abs(z - (0.5 + up * 2))
        width, height = 0.12 + 0.3 * width, 0.12 + 0.3 * height
        image[(right < width + 0.05) & (top < height + 0.05)] = scene.second_colour * 0.5
        image[(right < width) & (top < height)] = colour
        image[(right < width) & (top < height) & (z < 0.4 + up * 2)] = 1 - np.array(colour)
    return image


def _mural(scene: Scene, x: Array, z: Array) -> Array:
    """Soft or hard shapes: a sum of waves in any direction, coarse and fine."""
    height = np.zeros_like(x)
    for direction, phase, *rest in scene.blobs[:6]:
        turn, pitch = 2 * np.pi * direction, 1.5 + 6 * rest[0] ** 2
        height += np.sin(pitch * (x * np.cos(turn) + z * np.sin(turn)) + 2 * np.pi * phase) / np.sqrt(pitch)
    share = np.clip(0.5 + height * (0.6 if scene.phases[6] < np.pi else 8), 0, 1)
    return scene.wall_colour + (scene.second_colour - scene.wall_colour) * share[..., None]


def _brick_wall(scene: Scene, x: Array, z: Array) -> Array:
    row = np.floor(z * scene.scale * 2)
    along = x * scene.scale + 0.5 * (row % 2)
    mortar = (along % 1 < 0.05) | ((z * scene.scale * 2) % 1 < 0.1)
    shade = 0.75 + 0.25 * (np.sin(row * 12.9898 + np.floor(along) * 78.233) * 43758.5453 % 1)  # a hash
    return np.where(mortar[..., None], scene.wall_colour * 0.6 + 0.25, scene.wall_colour * shade[..., None])


def _landscape(scene: Scene, x: Array, z: Array) -> Array:
    zenith, horizon = np.array([0.55, 0.72, 0.92]), np.array([0.9, 0.93, 0.97])
    sky = zenith + (horizon - zenith) * np.clip(1 - (z - 0.8) / 3, 0, 1)[..., None]
    first, second, third = scene.phases[:3]
    hills = 0.9 + 0.35 * np.sin(x * 0.7 + first) + 0.2 * np.sin(x * 1.9 + second) + 0.06 * np.sin(x * 9 + third)
    trees = np.array([0.22, 0.4, 0.2]) * (0.8 + 0.3 * np.sin(x * 5 + z * 7))[..., None]
    return np.where((z < hills)[..., None], trees, sky)


def _bokeh(scene: Scene, x: Array, z: Array) -> Array:
    image = np.broadcast_to(scene.wall_colour * 0.5, (*x.shape, 3)).copy()
    for across, up, size, *colour in scene.blobs[:, :6]:
        spread = 0.05 + 0.25 * size**2
        glow = np.exp(-((x - (across * 6 - 3)) ** 2 + (z - up * 3) ** 2) / spread)
        image += glow[..., None] * np.array(colour) * 0.6
    return image


def _plain_floor(scene: Scene, x: Array, y: Array) -> Array:
    return np.broadcast_to(scene.floor_colour, (*x.shape, 3))


def _wooden_floor(scene: Scene, x: Array, y: Array) -> Array:
    planks = scene.floor_colour * (0.85 + 0.15 * np.sin(np.floor(x * 6) * 5.1 + scene.phases[4]))[..., None]
    return np.where(((x * 6) % 1 < 0.05)[..., None], planks * 0.75, planks)


def _carpet(scene: Scene, x: Array, y: Array) -> Array:
    waves = np.sin(x * 7 + scene.phases[7]) + np.sin(y * 5 + 2 * np.sin(x * 3 + scene.phases[8]))
    return np.where((waves > 0.3)[..., None], scene.second_colour * 0.8, scene.floor_colour)


def _tiled_floor(scene: Scene, x: Array, y: Array) -> Array:
    dark = (np.floor(x * 2) + np.floor(y * 2)) % 2 > 0
    return np.where(dark[..., None], scene.floor_colour * 0.75, scene.floor_colour)


def _grass(scene: Scene, x: Array, y: Array) -> Array:
    return np.array([0.36, 0.45, 0.25]) * (0.9 + 0.1 * np.sin(x * 8 + scene.phases[3]) * np.sin(y * 9))[..., None]


_Paint = Callable[[Scene, Array, Array], Array]
_WALLS: dict[str, _Paint] = {
    "plain": _plain_wall,
    "gradient": _gradient_wall,
    "panel": _panel_wall,
    "paper": _papered_wall,
    "curtain": _curtain,
    "shelves": _shelves,
    "pictures": _hung_wall,
    "mural": _mural,
    "brick": _brick_wall,
    "outdoor": _landscape,
    "bokeh": _bokeh,
}
_FLOORS: dict[str, _Paint] = {
    "plain": _plain_floor,
    "wood": _wooden_floor,
    "tile": _tiled_floor,
    "carpet": _carpet,
    "grass": _grass,
}
