"""Fixtures of the fault tests."""

from tests.emulator import emulator, emulator_server
from tests.faults.restoring import take_backup

__all__ = ["emulator", "emulator_server", "take_backup"]
