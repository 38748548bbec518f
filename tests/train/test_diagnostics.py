"""What a run warns of by itself."""

from entprog.train.diagnostics import STILL, Watch


def test_a_run_whose_gradient_is_zero_says_that_nothing_trains() -> None:
    said: list[str] = []
    watch = Watch(lambda sign, message: said.append(sign))
    for norm in [0.0] * (STILL - 1) + [0.1] + [0.0] * (STILL + 2):
        watch.step(1.0, ["blocks.0"], False, norm)
    assert said == ["still"]
    watch.step(1.0, ["blocks.0"], False)
    assert watch.still == 0
