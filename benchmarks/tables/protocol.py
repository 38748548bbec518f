"""The rules of a suite in words: the notes below each of its tables."""

from benchmarks.runner.suite import Suite
from benchmarks.runner.suite_checks import recipe_value


def protocol_lines(suite: Suite) -> list[str]:
    """The protocol in words, one line a rule."""
    settings, exam = suite.settings, suite.exam
    phases = ", ".join(
        f"{name} {phase.steps} steps of {phase.batch} x {phase.frames} frame{'s' * (phase.frames > 1)} at "
        f"{phase.resolution} px"
        for name, phase in suite.config(settings.reference).phases.items()
        if phase.steps
    )
    tuned = f"{len(suite.tuning.seeds)} seeds" if suite.tuning.seeds[1:] else "one seed"
    decay = recipe_value(suite, "train", "lr_scheduler", "constant")
    lines = [
        f"{suite.name}: {phases}; all arms start from the same weights and see the same data order, tau and noise at "
        "each step",
        f"{len(settings.seeds)} seeds{', each training on other people' if settings.people_by_seed else ''}; values "
        "are means over seeds +- their standard deviation",
        f"learning rates: each arm is swept over {len(settings.rates)} factors of its own default, all with {decay} "
        f"decay; a sweep widens until its best factor has a worse one on each side; {tuned}, on people that no final "
        "run uses",
        f"loss: noise-prediction error on {exam.clips} held-out clips that training, searches and sweeps never used, "
        f"{exam.repeats} draw{'s' * (exam.repeats > 1)} each, the same for all arms; standard errors of differences "
        "are paired by clip",
        "cost: exact FLOPs of training, scoring and search, with the holdout readings that a search needs; readings "
        "for the benchmark alone (curves, exams) are not counted",
        "memory: metered device bytes, live in the largest step, and the mean over time of each step's peak",
    ]
    if settings.smoke:
        lines.insert(0, "A SMOKE TEST: it shows that everything works; no number here means anything")
    return lines
