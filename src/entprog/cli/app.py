"""The `entprog` command: what it offers, how it starts and how it fails."""

import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cyclopts import App, Parameter, UnknownOptionError

from entprog.cli import commands, sample_command
from entprog.cli.arguments import converted
from entprog.cli.errors import plain_errors
from entprog.cli.overrides import with_a_key, with_overrides_set
from entprog.cli.studio_command import studio
from entprog.cli.threads import wait_briefly

HELP = """Fine-tune video diffusion models on people, by training what matters most.

Begin with `entprog demo`: it needs no data and no network. With videos:

    entprog prepare VIDEOS data/mine
    entprog plan recipe.toml --device 4090
    entprog train recipe.toml --data.path data/mine --output-dir runs/mine
    entprog sample runs/mine --reference me.png --drive dance.mp4 --out clips
    entprog evaluate runs/mine
    entprog report runs/mine

`entprog COMMAND --help` explains each, and `entprog train --keys` lists all
that a recipe can say."""

COMMANDS: tuple[Callable[..., Any], ...] = (
    commands.demo,
    commands.prepare,
    commands.plan,
    commands.rank,
    commands.train,
    sample_command.sample,
    commands.evaluate,
    commands.export,
    commands.report,
    studio,
)
"""As the help lists them."""

USAGES: dict[Callable[..., Any], str] = {
    commands.plan: "Usage: entprog plan [RECIPE] [OPTIONS] [--KEY VALUE ...]",
    commands.train: "Usage: entprog train RECIPE [--KEY VALUE ...] [OPTIONS]",
}
"""Of commands that take any key of a recipe."""


def _version() -> str:
    try:
        return f"entprog {version('entprog')}"
    except PackageNotFoundError:
        return "entprog (not installed: run from its source folder)"


app = App(
    name="entprog",
    help=HELP,
    help_format="plaintext",
    version=_version,
    exit_on_error=False,
    print_error=False,
    verbose=False,
    suppress_keyboard_interrupt=False,
    result_action="return_value",
    default_parameter=Parameter(converter=converted),
)
for place, command in enumerate(COMMANDS):
    app.command(command, sort_key=place, usage=USAGES.get(command))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; returns on success.

    Each problem is one line on stderr that begins with "entprog: "; ENTPROG_DEBUG=1 shows where it came from.

    Raises:
        SystemExit: 2 for anything the user can mend, 130 when interrupted.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    if "" not in sys.path:
        # Plugins of the user's own ("package.module:Class") are found beside where the command runs.
        sys.path.append("")
    wait_briefly()
    with plain_errors():
        try:
            app(with_overrides_set(tokens))
        except UnknownOptionError as error:
            raise with_a_key(error, tokens[0]) from error
