"""Numbers of bytes as people write and read them. Imports nothing, so that the command line starts at once."""

import re

UNITS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def parse_bytes(text: str) -> int | None:
    """Bytes of "24GiB", "80 GB" or "512MiB"; None for "".

    Raises:
        ValueError: no such size.
    """
    if not text.strip():
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    if not found or found[2].upper() not in UNITS or float(found[1]) <= 0:
        raise ValueError(f"{text!r}: expected a size such as 24GiB, 80GB or 512MiB")
    return int(float(found[1]) * UNITS[found[2].upper()])


def written_bytes(count: float) -> str:
    """Bytes as a person reads them: "3.1 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
