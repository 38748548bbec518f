"""What a person looks like: skin, hair, and garments painted on the surface of the body."""

from dataclasses import dataclass

import numpy as np

from entprog.synthetic.body import Body, SurfacePoints
from entprog.synthetic.domains import Domain
from entprog.synthetic.geometry import Array
from entprog.synthetic.random import choose, random_stream

SKIN, TOP, BOTTOM, SHOE, HAIR = range(5)

# Human skin in sRGB from light to dark; interpolated tones are natural, too.
SKIN_TONES = np.array(
    [
        [0.95, 0.80, 0.71],
        [0.90, 0.71, 0.60],
        [0.80, 0.60, 0.47],
        [0.65, 0.45, 0.34],
        [0.47, 0.31, 0.23],
        [0.33, 0.21, 0.16],
    ]
)
HAIR_COLOURS = {
    "black": ([0.06, 0.05, 0.05], 0.35),
    "dark brown": ([0.16, 0.10, 0.07], 0.25),
    "brown": ([0.35, 0.22, 0.12], 0.15),
    "blond": ([0.72, 0.56, 0.32], 0.10),
    "red": ([0.55, 0.25, 0.12], 0.08),
    "grey": ([0.55, 0.55, 0.56], 0.07),
}
SLEEVES = (0.05, 0.45, 0.5, 0.9, 1.8, 1.85)  # where they end, in `along_arm`
HAIR_THICKNESS = {"bald": 0.0, "short": 0.012, "mid": 0.022, "long": 0.016, "bun": 0.012}  # metres
HAIR_BELOW_EAR = {"short": 0.045, "mid": 0.06, "long": 0.08, "bun": 0.055}  # metres


@dataclass(frozen=True, slots=True)
class Look:
    """The appearance of one person. Colours are [3] in 0..1, lengths in metres."""

    skin: Array
    hair: Array
    hair_style: str
    garment: str
    sleeve: float
    neckline: float  # depth of a V, 0 for a round neck
    top: str  # pattern
    top_colours: Array  # [2, 3]
    bottom: str  # pattern
    bottom_colours: Array  # [2, 3]
    shoe_colour: Array
    sole_colour: Array
    pattern_scale: float  # half repeats a metre
    skirt_length: float  # about metres below the hips
    skirt_flare: float
    thickness: float
    phases: Array  # [8] of folds and strands

    @property
    def wears_skirt(self) -> bool:
        return self.garment in ("dress", "skirt")

    def way_down(self, share: float) -> float:
        """Returns how far down the leg a share of the skirt reaches: 0 the hip, 1 the knee, 2 the ankle."""
        return 1.25 * share * self.skirt_length

    def regions(self, body: Body, points: SurfacePoints) -> Array:
        """Returns what covers each point [N] int8: SKIN, TOP, BOTTOM, SHOE or HAIR."""
        hips, knee = body.rest_joint("uleg.L")[2], body.rest_joint("lleg.L")[2]
        ankle, neck = body.rest_joint("foot.L")[2], body.rest_joint("neck")[2]
        x, y, z = points.x, points.y, points.z
        waist = hips + 0.1
        on_arm = points.arm > 0.5
        opening = np.where(y < 0, self.neckline * np.clip(1 - np.abs(x) / 0.09, 0, 1) * 2, 0)
        on_chest = ~on_arm & (z > waist) & (z < neck + 0.035 - opening) & (points.head_and_neck < 0.6)
        hem = {
            "trousers": ankle + 0.03,
            "jumpsuit": ankle + 0.03,
            "breeches": knee + 0.02,
            "shorts": hips - 0.14,
        }.get(self.garment)
        if hem is None:
            # Legs count as skirt down to its hem, so that a knee pushing through the cloth is not seen.
            hem = np.interp(self.way_down(1.0), [0, 1, 2], [hips, knee, ankle]) - 0.01
        regions = np.full(len(x), SKIN, np.int8)
        regions[~on_arm & (z <= waist) & (z > hem)] = BOTTOM
        regions[on_chest | (on_arm & (points.along_arm < self.sleeve))] = TOP
        regions[(points.foot > 0.5) & (z < ankle + 0.01)] = SHOE
        if self.hair_style != "bald":
            regions[self._under_hair(body, points)] = HAIR
        return regions

    def colours(self, body: Body, points: SurfacePoints, regions: Array) -> Array:
        """Returns the unlit colour of each point [N, 3] float32, given what covers it."""
        x, z = points.x, points.z
        colour = np.empty((len(x), 3), np.float32)
        colour[:] = self.skin
        self._paint_face(body, points, regions == SKIN, colour)

        top = regions == TOP
        second = self._top_pattern(body, points)[top]
        colour[top] = np.where(second[:, None], self.top_colours[1], self.top_colours[0])
        bottom = regions == BOTTOM
        second = self._bottom_pattern(body, points)[bottom]
        colour[bottom] = np.where(second[:, None], self.bottom_colours[1], self.bottom_colours[0])
        if self.garment not in ("dress", "jumpsuit"):
            colour[bottom & (z > body.rest_joint("uleg.L")[2] + 0.075)] *= 0.45  # a belt

        shoe = regions == SHOE
        is_sole = z[shoe] < body.rest.vertices[:, 2].min() + 0.025
        colour[shoe] = np.where(is_sole[:, None], self.sole_colour, self.shoe_colour)
        hair = regions == HAIR
        strands = 1 + 0.18 * np.sin(x[hair] * 220 + 3 * np.sin(z[hair] * 40))
        colour[hair] = self.hair * strands[:, None]
        return np.clip(colour, 0, 1)

    def thickness_of(self, regions: Array) -> Array:
        """Returns the height of each region above the skin [N], in metres."""
        return np.choose(regions, [0, self.thickness, self.thickness, 0.006, HAIR_THICKNESS[self.hair_style]])

    def _under_hair(self, body: Body, points: SurfacePoints) -> Array:
        eye, ear = body.rest_keypoint("left_eye"), body.rest_keypoint("left_ear")
        x, y, z = points.x, points.y, points.z
        hairline = eye[2] + 0.068 - 0.02 * np.abs(x) / 0.07
        forehead = (z > hairline) & (y > eye[1] - 0.05)
        back = (y > ear[1] - 0.012) & (z > ear[2] - HAIR_BELOW_EAR[self.hair_style])
        temples = (z > hairline - 0.03) & (y > eye[1] + 0.055)
        near_ear = (np.abs(np.abs(x) - 0.078) < 0.02) & (np.abs(z - ear[2]) < 0.035) & (y < ear[1] + 0.02)
        return (points.head > 0.6) & (forehead | back | temples) & ~near_ear

    def _paint_face(self, body: Body, points: SurfacePoints, is_skin: Array, colour: Array) -> None:
        """Paints eyes, brows, lips and nostrils into colour [N, 3]."""
        eye, nose = body.rest_keypoint("left_eye"), body.rest_keypoint("nose")
        side, z = np.abs(points.x), points.z
        face = is_skin & (points.head > 0.5) & (points.y < eye[1] + 0.03)

        def ellipse(across: float, up: float, width: float, height: float) -> Array:
            return face & (((side - across) / width) ** 2 + ((z - up) / height) ** 2 < 1)

        colour[ellipse(eye[0], eye[2], 0.0155, 0.0085)] = 0.92
        colour[ellipse(eye[0], eye[2], 0.0075, 0.0082)] = self.hair * 0.3 + 0.05
        colour[ellipse(eye[0], eye[2] + 0.021, 0.02, 0.0045)] = self.hair * 0.7
        colour[ellipse(0, nose[2] - 0.047, 0.026, 0.0085)] = self.skin * [0.85, 0.6, 0.6]
        colour[face & (np.abs(side - 0.012) < 0.006) & (np.abs(z - nose[2] + 0.012) < 0.004)] *= 0.7

    def _top_pattern(self, body: Body, points: SurfacePoints) -> Array:
        """Returns where the second colour of the top shows [N]."""
        x, y, z = points.x, points.y, points.z
        neck = body.rest_joint("neck")[2]
        on_arm = points.arm > 0.5
        down = np.where(on_arm, points.along_arm * 0.28, z)  # along the sleeve or along the trunk
        across = np.where(on_arm, z, x)
        scale = self.pattern_scale
        match self.top:
            case "stripes":
                return np.sin(down * scale * np.pi) > 0
            case "bars":
                return np.sin(x * scale * 1.25 * np.pi) > 0
            case "check":
                return (np.sin(down * scale * 3) > 0) ^ (np.sin(across * scale * 3) > 0)
            case "dots":
                return np.sin(down * scale * 4) * np.sin(x * scale * 4) > 0.45
            case "logo":
                return (x**2 + (z - neck + 0.15) ** 2 < 0.0042) & (y < 0) & ~on_arm
            case "diagonal":
                return np.sin((down + 0.8 * across) * scale * np.pi) > 0
            case "zigzag":
                return np.sin((down + 0.25 * np.abs((across * scale * 0.8) % 1 - 0.5)) * scale * np.pi) > 0
            case "blotches":
                wave = np.sin(down * scale * 2 + self.phases[0]) + np.sin(across * scale * 2.3 + self.phases[1])
                return wave + np.sin((down - across) * scale * 1.7 + self.phases[2]) > 0.4
            case "chest":
                return np.abs(down - neck + 0.17) < 0.045
            case "block":
                return down > neck - 0.18
        return np.zeros(len(x), bool)

    def _bottom_pattern(self, body: Body, points: SurfacePoints) -> Array:
        """Returns where the second colour of the bottom shows [N]."""
        if self.garment == "dress":  # cut from the cloth of the top
            return self._top_pattern(body, points) & (self.top != "logo")
        if self.bottom == "side" and not self.wears_skirt:
            return (np.abs(points.x) > 0.17) & (np.abs(points.y - 0.02) < 0.03)
        if self.bottom == "check":
            return (np.sin(points.z * 50) > 0.6) | (np.sin(points.x * 50) > 0.6)
        return np.zeros(len(points.x), bool)


def colour_from_hsv(hue: float, saturation: float, value: float) -> Array:
    """Returns a colour [3] float32 in 0..1 from hue, saturation and value in 0..1."""
    offsets = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return (value * (1 - saturation * (1 - np.clip(offsets, 0, 1)))).astype(np.float32)


def draw_look(seed: int, domain: Domain) -> Look:
    """Draws the appearance of a seed."""
    rng = random_stream("look", seed, domain.name)
    garment = choose(rng, domain.garments)
    top_colours = np.stack([_draw_cloth_colour(rng), _draw_cloth_colour(rng)])
    bottom_colours = np.stack([_draw_cloth_colour(rng), top_colours[1]])
    if garment in ("dress", "jumpsuit"):
        bottom_colours = top_colours
    hair_colours, hair_shares = zip(*HAIR_COLOURS.values(), strict=True)
    hair = np.array(hair_colours)[rng.choice(len(hair_colours), p=hair_shares)]
    return Look(
        skin=_draw_skin(rng),
        hair=hair,
        hair_style=choose(rng, domain.hair),
        garment=garment,
        sleeve=choose(rng, SLEEVES),
        neckline=choose(rng, (0.0, 0.0, 0.06, 0.1)),
        top=choose(rng, domain.tops),
        top_colours=_separated(top_colours),
        bottom=choose(rng, domain.bottoms),
        bottom_colours=_separated(bottom_colours),
        shoe_colour=_draw_cloth_colour(rng),
        sole_colour=np.full(3, choose(rng, (0.9, 0.15))),
        pattern_scale=rng.uniform(12, 26),
        skirt_length=rng.uniform(0.35, 0.85),
        skirt_flare=rng.uniform(0.04, 0.2),
        thickness=rng.uniform(0.004, 0.016),
        phases=rng.uniform(0, 2 * np.pi, 8),
    )


def _draw_skin(rng: np.random.Generator) -> Array:
    place = rng.beta(1.2, 1.2) * (len(SKIN_TONES) - 1)
    steps = np.arange(len(SKIN_TONES))
    tone = np.array([np.interp(place, steps, channel) for channel in SKIN_TONES.T])
    return np.clip(tone * rng.uniform(0.96, 1.04), 0, 1)


def _draw_cloth_colour(rng: np.random.Generator) -> Array:
    muted, vivid = rng.uniform(0, 0.15), rng.uniform(0.35, 0.9)
    return colour_from_hsv(rng.random(), choose(rng, (muted, vivid)), rng.uniform(0.12, 0.95))


def _separated(colours: Array) -> Array:
    """Lightens or darkens the second of two colours [2, 3] that are too similar."""
    first, second = colours
    if np.abs(first - second).max() < 0.3:
        second = second * 0.35 if first.max() > 0.5 else 1 - (1 - second) * 0.35
    return np.stack([first, second]).astype(np.float32)
