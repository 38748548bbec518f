"""Numbers as people read them: 1.2 GiB, 3.4 TFLOP, 12.3 s, 0.87x."""

import math

MISSING = "-"


def significant(value: float, digits: int = 4) -> str:
    """A plain number with `digits` significant digits, without exponent where it stays short."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 6 or size < -4:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - size)}f}"


def _scaled(value: float, step: float, units: tuple[str, ...]) -> str:
    place = 0
    while abs(value) >= 0.9995 * step and place < len(units) - 1:
        value /= step
        place += 1
    text = f"{value:.0f}" if abs(value) >= 100 or (place == 0 and value == int(value)) else f"{value:.3g}"
    return f"{text} {units[place]}".strip()


def size(value: float) -> str:
    """Bytes in binary units."""
    return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB")) if math.isfinite(value) else MISSING


def flops(value: float) -> str:
    """Floating point operations in decimal units."""
    units = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")
    return _scaled(value, 1000.0, units) if math.isfinite(value) else MISSING


def count(value: float) -> str:
    """A count, such as parameters: 591 k, 7.1 M."""
    return _scaled(value, 1000.0, ("", "k", "M", "G")) if math.isfinite(value) else MISSING


def seconds(value: float) -> str:
    """A duration: 85 ms, 12.3 s, 4 min 05 s, 2 h 13 min."""
    if not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0 s"
    if abs(value) < 0.9995:
        return f"{value * 1000:.3g} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def ratio(value: float) -> str:
    """A value as a multiple of another."""
    return f"{value:.2f}x" if math.isfinite(value) else MISSING


def percent(value: float) -> str:
    """A share, 0..1, in percent."""
    if not math.isfinite(value):
        return MISSING
    return f"{100 * value:.0f} %" if value >= 0.0995 or value == 0 else f"{100 * value:.1f} %"
