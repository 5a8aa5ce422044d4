"""Programs in Kotlin run on a JVM against real services. `scripts/kotlin.sh` compiles them."""

import os
import subprocess
from pathlib import Path

from python_tests.conftest import Stack


def run(program: str, stack: Stack, homes: Path) -> str:
    arguments = [str(it) for it in (stack.description, stack.account(), stack.account(), homes)]
    command = ["java", "-cp", os.environ["KOTLIN_CLASSPATH"], program, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_example_sends_the_first_message(stack: Stack, tmp_path: Path) -> None:
    said = run("FirstMessageKt", stack, tmp_path).splitlines()
    assert said[0] == "ann: Saturday?"
    assert said[1].startswith("unknown-handle: ")


def test_calls_are_cancelled_errors_have_types_and_files_come_back(
    stack: Stack, tmp_path: Path
) -> None:
    assert run("PromisesKt", stack, tmp_path) == "all held\n"
