"""Fixtures of the fault tests."""

from tests.emulator import emulator, emulator_server

__all__ = ["emulator", "emulator_server"]
