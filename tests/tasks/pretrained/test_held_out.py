"""Which stored reference image a held-out window is generated from."""

from types import SimpleNamespace
from typing import Any

import pytest

from entprog.prepare.window_file import reference_frames
from entprog.tasks.pretrained.held_out import _reference_places


def window(clip: str, start: int, frames: int = 8) -> Any:
    return SimpleNamespace(clip=clip, start=start, frames=frames)


@pytest.mark.parametrize("starts", [(0,), (0, 4, 8), (16, 20)])
def test_places_are_those_that_prepare_took(starts: tuple[int, ...]) -> None:
    rows = [window("a", start) for start in starts] + [window("b", 100)]
    windows: Any = SimpleNamespace(rows=rows, references=lambda row: 4)
    for row in rows[:-1]:
        places = _reference_places(windows, row)
        assert tuple(place + row.start for place in places) == reference_frames(starts, 8, 4)
    if len(starts) > 2:
        first = _reference_places(windows, rows[0])
        assert any(place >= 8 for place in first), "a longer clip has a reference outside its first window"
    else:
        assert len(_reference_places(windows, rows[0])) == 4
    bare: Any = SimpleNamespace(rows=rows, references=lambda row: 0)
    assert _reference_places(bare, rows[0]) == ()
