"""Numbers as people read them."""


def number(value: float) -> str:
    """Short: 1234567 → 1.2M, 0.01234 → 0.0123."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= (1e4 if unit == "k" else size):
            return f"{value / size:.3g}{unit}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percent(value: float) -> str:
    """0.153 → 15.3%."""
    return f"{100 * value:.3g}%"


def duration(seconds: float) -> str:
    """65 → 1:05, 3665 → 1:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
