"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

from secateur.core.errors import FileError


def write_svg(path: str | Path, text: str, example: str) -> Path:
    """Write an SVG file that needs nothing else; returns the path.

    example: a name for it, for the hint.

    Raises:
        FileError: The path does not end in .svg, or cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".svg":
        raise FileError(
            f"{target.name} is not the name of an SVG file", hint=f"for example {example}"
        )
    try:
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError(f"{target.name} cannot be written: {error.strerror}") from error
    return target


__all__ = ["write_svg"]
