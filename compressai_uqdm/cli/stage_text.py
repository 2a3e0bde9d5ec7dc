"""Which stages of a file are there, in words."""

from ..files.container import ends_in_header, parse_header
from ..files.header import Header
from ..files.rate import whole_stages

__all__ = ["parse_file", "stage_range", "stages_text"]

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


# ---- files ----


def parse_file(data: bytes, max_pixels: int) -> tuple[Header, int]:
    found = parse_header(data, max_pixels)
    if found is None:
        raise ends_in_header(len(data))
    return found


def stages_text(header: Header, n_bytes: int) -> str:
    """How much of a file so many bytes of strings are, and why they are not all."""
    text = stage_range(header, *whole_stages(header.lengths, n_bytes))
    if n_bytes < header.payload_bytes:
        return f"cut short: {text}"
    if n_bytes < sum(header.lengths):
        return f"made to a limit, with {n_bytes} bytes of stages: {text}"
    return text


def stage_range(header: Header, stages: int, share: float) -> str:
    text = f"{stages} of {len(header.lengths)} stages"
    if share:
        text += f" and {share:.0%} of the {ordinal(stages)}"
    return text


def ordinal(stages: int) -> str:
    """The stage after so many, in words."""
    return ORDINALS[stages] if stages < len(ORDINALS) else f"{stages + 1}th"
