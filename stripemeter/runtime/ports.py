"""TCP ports of this machine: binding one for good, choosing a free one, saying who holds a busy one.

Belongs here: sockets before any server owns them, and `/proc/net`. Does not: protocols, health.

A plain bind is the only honest test of "free": gRPC servers use SO_REUSEPORT and would share a port in silence.
"""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from stripemeter.errors import InvalidInput, Unavailable
from stripemeter.runtime.processes import command_line

BACKLOG = 2048
"""Connections the kernel keeps while every API worker is busy or restarting."""
_LISTEN = "0A"


def listen(host: str, port: int, *, setting: str) -> socket.socket:
    """A listening socket on (host, port); port 0 picks a free one.

    Raises:
        Unavailable: the port is taken; names it, its holder if known, and the setting that changes it.
        InvalidInput: the host is not an address of this machine.
    """
    family, address = _resolve(host, port, setting=setting)
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
    try:
        bound.bind(address)
        bound.listen(BACKLOG)
    except PermissionError as error:
        bound.close()
        raise InvalidInput(f"port {port}: only root may use it. Set {setting} above 1023", field=setting) from error
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"port {port} on {host} is already in use{_held_by(port)}. Stop that process, or set {setting} to another "
            "port (0 picks a free one)"
        ) from error
    return bound


def claim(host: str, port: int, *, setting: str) -> int:
    """The port, once a plain bind has shown it is free (port 0: a free one). It is released before we return.

    Raises:
        Unavailable, InvalidInput: as `listen`.
    """
    with listen(host, port, setting=setting) as bound:
        return int(bound.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a plain bind of the loopback port succeeds now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def is_loopback(host: str) -> bool:
    """Whether the host names this machine only: 127.0.0.0/8, ::1 or `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def holder(port: int) -> tuple[int, str] | None:
    """(pid, command) of the process that listens on the port; None when unknown (free, or another user's)."""
    inodes = _listening_inodes(port)
    if not inodes:
        return None
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and _has_socket(entry, inodes):
            pid = int(entry.name)
            return pid, " ".join(command_line(pid))
    return None


def _held_by(port: int) -> str:
    found = holder(port)
    if found is None:
        return ""
    pid, command = found
    return f" by process {pid} ({command[:120]})"


def _resolve(host: str, port: int, *, setting: str) -> tuple[socket.AddressFamily, tuple[str, int]]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InvalidInput(f"{host}: not an address of this machine ({error})", field=setting) from error
    return family, (str(address[0]), int(address[1]))


def _listening_inodes(port: int) -> set[str]:
    rows: list[list[str]] = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            rows += [line.split() for line in table.read_text(encoding="ascii").splitlines()[1:]]
    return {row[9] for row in rows if row[3] == _LISTEN and int(row[1].rpartition(":")[2], 16) == port}


def _has_socket(process: Path, inodes: set[str]) -> bool:
    try:
        links = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    except OSError:  # gone, or another user's
        return False
    return any(link.startswith("socket:[") and link[8:-1] in inodes for link in links)
