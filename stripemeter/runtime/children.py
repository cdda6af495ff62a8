"""Starting a child process that cannot outlive us.

Belongs here: sessions, signals, users and capabilities of a child. Does not: what the child is, when it restarts.

Every child leads a session of its own, has SIGINT back at its default (a shell's `&` leaves it ignored, and Dagster
then ignores SIGTERM too) and is signalled by the kernel when the thread that started it dies. That last promise is
per direct child only: `runtime.guardian` covers grandchildren.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_READ_SEARCH = 2
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whom a child of root becomes.

    Args:
        user: the account.
        reads_anywhere: keep CAP_DAC_READ_SEARCH across the change of user, so that the child may walk through
            directories closed to that account.
    """

    user: pwd.struct_passwd
    reads_anywhere: bool = False


def spawn(
    argv: Sequence[str],
    *,
    log: IO[bytes] | int,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    identity: Identity | None = None,
    death_signal: signal.Signals | None = signal.SIGKILL,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own.

    Args:
        argv: program and arguments; no shell.
        log: where its output goes (a file or `subprocess.DEVNULL`).
        env: its whole environment; ours when None.
        cwd: its working directory.
        identity: whom to become (only root may); ourselves when None.
        death_signal: what the kernel sends it when we die; None for a child that must outlive us.
        stdin: where its input comes from.
        pass_fds: inherited descriptors.
    """
    return subprocess.Popen(
        list(argv),
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=dict(env) if env is not None else None,
        cwd=cwd,
        start_new_session=True,
        pass_fds=pass_fds,
        preexec_fn=_prepare(identity, death_signal, os.getpid()),  # noqa: PLW1509 - the supervisor has one thread
    )


def unprivileged_user() -> pwd.struct_passwd | None:
    """Whom root's children become: `postgres` or `nobody`, whichever exists first; None when we are not root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name: entry for entry in pwd.getpwall()}
    return names.get("postgres") or names.get("nobody")


def can_reach(user: pwd.struct_passwd, paths: Sequence[Path]) -> bool:
    """Whether `user` may look at every one of `paths`, found out by being that user."""
    return all(
        subprocess.run(
            ["/usr/bin/test", "-e", str(path)], check=False, user=user.pw_uid, group=user.pw_gid, extra_groups=[]
        ).returncode
        == 0
        for path in paths
    )


def may_read_anywhere() -> bool:
    """Whether this process holds CAP_DAC_READ_SEARCH, which it could hand to a child."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapPrm:"):
            return bool(int(line.split()[1], 16) & (1 << _CAP_DAC_READ_SEARCH))
    return False


def _prepare(identity: Identity | None, death_signal: signal.Signals | None, parent: int) -> Callable[[], None]:
    def in_child() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if identity is not None:
            os.setgroups([])
            os.setgid(identity.user.pw_gid)
            _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
            os.setuid(identity.user.pw_uid)
            _keep_only(_CAP_DAC_READ_SEARCH if identity.reads_anywhere else None)
        if death_signal is None:
            return
        # After the change of user, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return in_child


def _keep_only(capability: int | None) -> None:
    mask = 0 if capability is None else 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low_and_high = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable
    _libc.capset(ctypes.byref(header), ctypes.byref(low_and_high))
    if capability is not None:
        _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)
