from __future__ import annotations

import socket
import subprocess
import sys


def run(*arguments: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    """A worker that should end by itself."""
    command = [sys.executable, "-m", "stripemeter_api.worker", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, pass_fds=pass_fds)


def test_a_public_address_is_refused() -> None:
    """Requests need no key yet, so only loopback may be bound: by name or by an inherited socket."""
    by_name = run("--host", "0.0.0.0", "--port", "0")
    with socket.create_server(("0.0.0.0", 0)) as listener:
        inherited = run("--fd", str(listener.fileno()), pass_fds=(listener.fileno(),))
    for refused in (by_name, inherited):
        assert refused.returncode == 2
        assert "loopback" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_taken_port_and_a_wrong_descriptor_are_said_plainly() -> None:
    """Exit status 2 and one sentence, no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused = run("--port", str(taken.getsockname()[1]))
    assert (refused.returncode, "cannot listen" in refused.stderr) == (2, True)
    refused = run("--fd", "77")
    assert (refused.returncode, "not an inherited TCP socket" in refused.stderr) == (2, True)
