"""What the columns of the table are called, which way is better, and how numbers are written."""

import math

#: Columns that are no quality of a result and get no column among the metrics.
_COSTS = ("seconds", "iteration", "work", "peak_memory", "prepare_seconds", "prepare_work")
_LABELS = {
    "feature_error": "feature error",
    "mse": "MSE",
    "psnr": "PSNR [dB]",
    "ssim": "SSIM",
    "relative_l2": "relative L2",
    "distortion_l2": "distortion L2",
    "distortion_linf": "distortion L∞",
    "angular_error": "angular error [°]",
    "phase_error": "phase error [°]",
    "wavelength_error": "λ error",
    "sigma_error": "σ error",
    "gamma_error": "γ error",
    "iteration": "iterations",
    "work": "work",
    "peak_memory": "memory",
    "prepare_seconds": "offline s",
    "prepare_work": "offline work",
}
_HIGHER = frozenset({"psnr", "ssim", "success", "found", "support_recovery", "activation", "diversity"})
_ORDER = ("objective", "feature_error", "mse", "psnr", "ssim", "success", "distortion_l2", "distortion_linf")
_HUMAN = frozenset({"work", "prepare_work", "peak_memory", "iteration"})
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

MISSING = "–"


def label(column: str) -> str:
    """Name of a column as readers know it."""
    return _LABELS.get(column, column.replace("_", " "))


def higher_is_better(column: str) -> bool:
    """Whether large values are good."""
    return column in _HIGHER


def is_cost(column: str) -> bool:
    """Whether a column says what a result has cost, not how good it is."""
    return column in _COSTS


def ordered(ranked_by: str, present: list[str]) -> list[str]:
    """Columns of a ranking: the metric that ranks, the usual ones, others by name, costs."""
    others = sorted(set(present) - set(_ORDER) - set(_COSTS))
    return [name for name in dict.fromkeys((ranked_by, *_ORDER, *others, *_COSTS)) if name in present]


def number(value: float, column: str = "", digits: int = 3) -> str:
    """So many significant digits; a dash for what does not apply.

    Example:
        >>> number(0.01234), number(21.5), number(1234567.0, "work"), number(3.2e-7), number(float("nan"))
        ('0.0123', '21.5', '1.23 M', '3.20·10⁻⁷', '–')
    """
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if column in _HUMAN and abs(value) >= 1:
        return _human(value, digits)
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return _scientific(value, digits)
    return _plain(value, digits)


def bound(value: float, column: str = "") -> str:
    """The end of an interval, which stands in a small space: two digits below 1.

    Example:
        >>> bound(0.01234), bound(21.53)
        ('0.012', '21.5')
    """
    return number(value, column, 2 if abs(value) < 1 else 3)


def power(value: float) -> str:
    """A decade on an axis: plain near 1, else a power of ten.

    Example:
        >>> power(0.1), power(100.0), power(1e-5)
        ('0.1', '100', '10⁻⁵')
    """
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:g}".replace("-", "−")
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    mantissa = f"{value / 10.0**exponent:g}".replace("-", "−")
    ten = "10" + str(exponent).translate(_SUPERSCRIPTS)
    return ten if mantissa == "1" else f"{mantissa}·{ten}"


def _plain(value: float, digits: int) -> str:
    whole = abs(value) >= 10**digits - 0.5
    text = f"{value:.0f}" if whole else f"{value:#.{digits}g}".removesuffix(".")
    return text.replace("-", "−")


def _scientific(value: float, digits: int) -> str:
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−", 1)


def _human(value: float, digits: int) -> str:
    """With a prefix from 10,000 on; below, whole numbers stay whole."""
    if abs(value) < 9999.5:
        return f"{value:.0f}" if value == round(value) else _plain(value, digits)
    power_of_1000 = min(math.floor(math.log10(abs(value) * (1 + 0.5 * 10.0**-digits)) / 3), 6)
    return f"{_plain(value / 1000**power_of_1000, digits)} {' kMGTPE'[power_of_1000]}"
