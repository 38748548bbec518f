"""What examples show runs; tests/house/test_docs.py does the same for README and docs."""

import re
import subprocess
import sys

from checkout import ONE_THREAD, ROOT


def test_a_foreign_loop_trains_by_stages() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "any_loop.py")],
        capture_output=True, text=True, check=False, env=ONE_THREAD,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    steps = re.findall(r"^step +(\d+)  (\d) of 6 blocks train  loss (\d\.\d+)$", done.stdout, re.MULTILINE)
    assert [int(step) for step, _, _ in steps] == list(range(12))
    assert [int(m) for _, m, _ in steps] == [2] * 3 + [3] * 3 + [4] * 3 + [6] * 3
