"""The stack of the Python tests, for programs in Kotlin."""

from python_tests.conftest import stack

__all__ = ["stack"]
