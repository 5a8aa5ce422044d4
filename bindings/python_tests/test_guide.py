"""The program of the guide does what the guide says."""

import re
import subprocess
import sys
from pathlib import Path

from .conftest import ROOT, Stack

CHAPTER = (ROOT / "guide" / "src" / "python.md").read_text()
EXAMPLE = ROOT / "bindings" / "python" / "examples" / "first_message.py"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", CHAPTER, re.MULTILINE | re.DOTALL)


def test_the_chapter_shows_the_whole_program_and_nothing_else() -> None:
    assert "\n\n".join(block.strip("\n") for block in blocks("python")) == squeezed(EXAMPLE)


def squeezed(file: Path) -> str:
    """With one blank line where formatters want two."""
    return re.sub(r"\n{3,}", "\n\n", file.read_text()).strip("\n")


def test_the_program_prints_what_the_chapter_says(stack: Stack, tmp_path: Path) -> None:
    arguments = [stack.description, stack.account(), stack.account(), tmp_path]
    ran = subprocess.run(
        [sys.executable, EXAMPLE, *arguments], capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stderr
    assert [ran.stdout] == blocks("text")
