"""HDR and wide-gamut pictures -> the sRGB picture that an SDR screen shows.

Light is linear, in units of SDR white (203 cd/m2, ITU-R BT.2408). The steps: signal to display light (ITU-R BT.2100:
PQ, or HLG with its system gamma for a screen of 1000 cd/m2), highlights rolled off, primaries to BT.709
(ITU-R BT.2087, from the primaries' chromaticities), values outside clipped, sRGB curve (IEC 61966-2-1). As the curve of
the roll-off begins above `KNEE`, SDR pictures that were put into an HDR file come out as they were.
"""

import numpy as np

__all__ = ["HLG", "PQ", "WIDE", "ToSDR", "converted", "roll_off", "srgb_decode", "srgb_encode"]

HLG, PQ, LINEAR, SRGB = 18, 16, 8, 13
BT709, BT2020, P3_DCI, P3_D65 = 1, 9, 11, 12
WIDE = (BT2020, P3_DCI, P3_D65)
"""Codes of ITU-T H.273 for transfer functions and primaries."""

SDR_WHITE = 203.0
HLG_PEAK = 1000.0
PQ_PEAK = 1000.0
"""cd/m2; of PQ where the file does not say how bright its brightest pixel is."""
KNEE = 0.8
"""Light up to which highlights stay as they are; above, everything up to the peak is fitted below SDR white."""
ROWS = 32
"""Rows converted at once, so that the intermediate values stay in the processor's cache."""

XY = {
    BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    P3_D65: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    P3_DCI: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
D65 = (0.3127, 0.3290)


def converted(transfer: int, primaries: int) -> bool:
    """Whether a picture with these codes looks wrong when its values are taken for sRGB."""
    return transfer in (HLG, PQ, LINEAR) or primaries in WIDE


def srgb_decode(signal: np.ndarray) -> np.ndarray:
    """sRGB values in 0..1 -> linear light."""
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


def srgb_encode(light: np.ndarray) -> np.ndarray:
    """Linear light in 0..1 -> sRGB values."""
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def hlg_decode(signal: np.ndarray) -> np.ndarray:
    """HLG values in 0..1 -> scene light in 0..1 (BT.2100 table 5)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def pq_decode(signal: np.ndarray) -> np.ndarray:
    """PQ values in 0..1 -> display light in cd/m2 (BT.2100 table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def to_bt709(primaries: int) -> np.ndarray:
    """The matrix [3, 3] from linear RGB of these primaries to linear BT.709."""
    return np.linalg.inv(_to_xyz(BT709)) @ _to_xyz(primaries)


def _to_xyz(primaries: int) -> np.ndarray:
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in XY[primaries]]).T
    x, y = D65
    return columns * np.linalg.solve(columns, np.array([x / y, 1, (1 - x - y) / y]))


def roll_off(light: np.ndarray, peak: float) -> np.ndarray:
    """Light above `KNEE` and up to `peak` fitted between `KNEE` and 1, with slope 1 at the knee (extended Reinhard)."""
    if peak <= 1:
        return light
    room = 1 - KNEE
    over, most = np.maximum(light - KNEE, 0) / room, (peak - KNEE) / room
    return np.where(light <= KNEE, light, KNEE + room * over * (1 + over / most**2) / (1 + over))


class ToSDR:
    """Converts the pictures of one file.

    Args:
        transfer, primaries: codes of ITU-T H.273; primaries that are not given are BT.2020 with HLG and PQ.
        peak: cd/m2 of the brightest pixel in a PQ file; None where the file does not say.
    """

    def __init__(self, transfer: int, primaries: int, peak: float | None = None) -> None:
        if primaries not in XY:
            primaries = BT2020 if transfer in (HLG, PQ) else BT709
        signal = np.arange(65536) / 65535
        if transfer == HLG:
            light, self.peak = hlg_decode(signal), HLG_PEAK / SDR_WHITE
        elif transfer == PQ:
            light, self.peak = pq_decode(signal) / SDR_WHITE, (peak or PQ_PEAK) / SDR_WHITE
        else:
            light, self.peak = signal if transfer == LINEAR else srgb_decode(signal), 1.0
        self.light = light.astype(np.float32)
        self.encoded = np.round(srgb_encode(signal) * 255).astype(np.uint8)
        self.matrix = to_bt709(primaries).astype(np.float32)
        self.hlg = transfer == HLG

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """uint16 RGB [H, W, 3] -> uint8 sRGB."""
        shown = np.empty(picture.shape, np.uint8)
        for row in range(0, len(picture), ROWS):
            self._rows(picture[row : row + ROWS], shown[row : row + ROWS])
        return shown

    def _rows(self, picture: np.ndarray, shown: np.ndarray) -> None:
        red, green, blue = (self.light[picture[..., channel]] for channel in range(3))
        if self.hlg:  # BT.2100 table 5: display light = peak * scene luminance ** (gamma - 1) * scene light
            luminance = 0.2627 * red + 0.6780 * green + 0.0593 * blue
            gain = np.float32(self.peak) * np.power(luminance, np.float32(0.2))
            red, green, blue = red * gain, green * gain, blue * gain
        if self.peak > 1:
            largest = np.maximum(np.maximum(red, green), blue)
            if largest.max() > KNEE:
                gain = roll_off(largest, self.peak) / np.maximum(largest, KNEE / 2)
                gain[largest <= KNEE] = 1
                red, green, blue = red * gain, green * gain, blue * gain
        for channel, (a, b, c) in enumerate(self.matrix):
            light = np.clip(a * red + b * green + c * blue, 0, 1) * np.float32(65535)
            shown[..., channel] = self.encoded[(light + np.float32(0.5)).astype(np.uint16)]
