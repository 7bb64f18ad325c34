"""Small files, written whole or not at all."""

from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Replaces `file` by `text` in one move, so that a reader or a kill never meets a part of it."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf8")
    partial.replace(file)
