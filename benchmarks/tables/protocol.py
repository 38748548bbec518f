"""The rules that every suite keeps, in words, for below each table."""

from benchmarks.runner.suite import Suite
from benchmarks.runner.suite_checks import recipe_value


def protocol_lines(suite: Suite) -> list[str]:
    """The protocol in words, for under every table."""
    settings, exam = suite.settings, suite.exam
    phases = ", ".join(
        f"{name} {phase.steps} steps of {phase.batch} x {phase.frames} frame{'s' * (phase.frames > 1)} at "
        f"{phase.resolution} px"
        for name, phase in suite.config(settings.reference).phases.items()
        if phase.steps
    )
    tuned = str(len(suite.tuning.seeds)) if suite.tuning.seeds[1:] else "one"
    lines = [
        f"{suite.name}: {phases}; all arms start from the same weights and see the same data order, tau and noise at "
        "each step",
        f"{len(settings.seeds)} seeds{', each training on other people' if settings.people_by_seed else ''}; values "
        "are means over seeds +- their standard deviation",
        f"learning rates: {len(settings.rates)} factors an arm around its own centre, all with "
        f"{recipe_value(suite, 'train', 'lr_scheduler', 'constant')} decay, widened until the best lies inside; on "
        f"{tuned} seed{'s' * (tuned != 'one')}, on people whom no final run sees",
        f"loss: noise-prediction error on {exam.clips} held-out clips whom neither training nor a search nor a sweep "
        f"has seen, {exam.repeats} draw{'s' * (exam.repeats > 1)} each, the same for all arms; errors of differences "
        "are paired, by clip",
        "cost: exact FLOPs of training, scoring, search and its readings of the holdout; what only the benchmark reads "
        "(curves, exams) is charged to nobody",
        "memory: live bytes of the largest step, and the mean over time of each step's peak",
    ]
    if settings.smoke:
        lines.insert(0, "A SMOKE TEST: it shows that everything works; no number here means anything")
    return lines
