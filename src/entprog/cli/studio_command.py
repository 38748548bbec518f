"""The command `studio`: arguments and help only."""

from pathlib import Path


def studio(*, runs: Path = Path("runs"), port: int = 7860, open: bool = True) -> None:
    """Look at videos and animate photos in the browser.

    A page on this machine only: drop videos and see what prepare would keep,
    with the poses drawn over them; drop a photo and a video to follow, and
    watch the clip. Needs the extra "studio". Ctrl-C stops it.

        entprog studio --runs runs

    Args:
        runs: folder in which finished runs are looked for.
        port: of the page's address, http://127.0.0.1:PORT.
        open: open the page in the browser.
    """
    from entprog.studio.serve import studio as verb

    verb(runs, port=port, inbrowser=open)
