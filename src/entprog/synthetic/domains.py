"""Families of people or creatures, places and movements that clips are drawn from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Domain:
    """What a family of clips may show. A choice named twice is drawn twice as often.

    `source` and `target` are made for pretraining and fine-tuning: training on one helps, but does not suffice,
    for the other. They share no body, hair style, top or movement, and no wall but the plain one.

    ===========  =====================================  ========================================
    field        source                                 target
    ===========  =====================================  ========================================
    bodies       even rows of the body table            odd rows of the body table
    hair         bald, short, mid                       long, bun
    garments     trousers, breeches, shorts             dress, skirt, trousers, shorts, jumpsuit
    tops         plain, block, chest, diagonal,         stripes, bars, check, dots, logo
                 zigzag, blotches
    bottoms      plain                                  plain, side, check
    backgrounds  plain, gradient, panel, paper,         brick, outdoor, bokeh, plain
                 curtain, shelves, pictures, mural
    floors       plain, tile, carpet                    plain, wood
    motions      walk, sway, exercise                   dance, spin
    ===========  =====================================  ========================================

    `all` draws from both. `creatures` shows no people but invented jointed animals (see creatures.py), in the
    places of `all`: a test of how training on people generalises. Their `tops`
    are the patterns of their hides; the other fields of people are empty.
    """

    name: str
    body_rows: tuple[int, ...]  # rows of the body table, modulo 2
    hair: tuple[str, ...]
    garments: tuple[str, ...]
    tops: tuple[str, ...]
    bottoms: tuple[str, ...]
    backgrounds: tuple[str, ...]
    floors: tuple[str, ...]
    motions: tuple[str, ...]

    @property
    def shows_people(self) -> bool:
        return bool(self.body_rows)


SOURCE = Domain(
    name="source",
    body_rows=(0,),
    hair=("short", "short", "mid", "mid", "bald"),
    garments=("trousers", "trousers", "trousers", "breeches", "shorts"),
    tops=("plain", "block", "chest", "diagonal", "zigzag", "blotches"),
    bottoms=("plain",),
    backgrounds=("plain", "gradient", "panel", "paper", "curtain", "shelves", "pictures", "mural", "mural"),
    floors=("plain", "tile", "carpet"),
    motions=("walk", "sway", "exercise"),
)

TARGET = Domain(
    name="target",
    body_rows=(1,),
    hair=("long", "long", "bun"),
    garments=("dress", "dress", "skirt", "skirt", "trousers", "trousers", "shorts", "jumpsuit"),
    tops=("stripes", "bars", "check", "dots", "logo"),
    bottoms=("plain", "plain", "side", "check"),
    backgrounds=("brick", "outdoor", "bokeh", "plain"),
    floors=("plain", "wood"),
    motions=("dance", "dance", "dance", "spin"),
)

ALL = Domain(
    name="all",
    body_rows=SOURCE.body_rows + TARGET.body_rows,
    hair=SOURCE.hair + TARGET.hair,
    garments=SOURCE.garments + TARGET.garments,
    tops=SOURCE.tops + TARGET.tops,
    bottoms=SOURCE.bottoms + TARGET.bottoms,
    backgrounds=SOURCE.backgrounds + TARGET.backgrounds,
    floors=SOURCE.floors + TARGET.floors,
    motions=SOURCE.motions + TARGET.motions,
)

CREATURES = Domain(
    name="creatures",
    body_rows=(),
    hair=(),
    garments=(),
    tops=("plain", "stripes", "spots", "patches", "belly", "socks"),
    bottoms=(),
    backgrounds=ALL.backgrounds,
    floors=ALL.floors,
    motions=("scuttle", "hop", "swim", "wave"),
)

DOMAINS = {domain.name: domain for domain in (SOURCE, TARGET, ALL, CREATURES)}


def find_domain(name: str) -> Domain:
    """Returns the domain of that name, or raises a ValueError that lists the known names."""
    if name not in DOMAINS:
        raise ValueError(f"domain: unknown value {name!r}; choose one of {', '.join(sorted(DOMAINS))}")
    return DOMAINS[name]
