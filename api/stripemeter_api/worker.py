"""One API worker: `python -m stripemeter_api.worker --fd N` or `--host 127.0.0.1 --port 3000`.

Belongs here: the process around the application: socket, log, signals. Does not: how many workers there are, or
restarting them (`runtime.supervisor`).
"""

from __future__ import annotations

import argparse
import ipaddress
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import structlog
import uvicorn

from stripemeter.errors import InvalidInput
from stripemeter.runtime.settings import Settings

GRACEFUL_SECONDS = 10
"""How long requests in flight may take after SIGTERM."""
BACKLOG = 2048


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status (0 after a graceful stop, 2 for a refused start)."""
    options = _parse(arguments)
    settings = Settings()
    _configure_log(settings.log_level)
    try:
        listener = _inherit(options.fd) if options.fd is not None else _listen(options.host, options.port)
    except InvalidInput as error:
        sys.stderr.write(f"{error}\n")
        return 2
    _prepare_metrics()
    # Imported late: prometheus_client decides at import whether its values live in files.
    from stripemeter_api.app import create_app  # noqa: PLC0415

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            loop="uvloop",
            http="httptools",
            lifespan="on",
            ws="none",
            access_log=False,
            log_config=None,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=GRACEFUL_SECONDS,
        )
    )
    # uvicorn raises the signal that stopped it once more at the end: a graceful stop must still exit with 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stripemeter_api.worker", description="One StripeMeter API worker.")
    parser.add_argument("--fd", type=int, help="descriptor of an inherited listening socket")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=3000, help="port to bind (default: 3000; 0 for any free one)")
    return parser.parse_args(arguments)


def _inherit(fd: int) -> socket.socket:
    """The listening socket a parent passed to us.

    Raises:
        InvalidInput: it is no socket, or is bound to a public address.
    """
    try:
        listener = socket.socket(fileno=fd)
        host = str(listener.getsockname()[0])
    except (OSError, IndexError) as error:
        raise InvalidInput(f"--fd {fd} is not an inherited TCP socket: {error}", field="fd") from error
    _refuse_public(host)
    return listener


def _listen(host: str, port: int) -> socket.socket:
    """A socket listening on `host`:`port`; the address it got goes to standard output.

    Raises:
        InvalidInput: the address is taken, unknown or public.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        _refuse_public(str(address[0]))
        listener = socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {host}:{port}: {error}", field="host") from error
    bound_host, bound_port = listener.getsockname()[:2]
    sys.stdout.write(f"listening on {bound_host}:{bound_port}\n")
    sys.stdout.flush()
    return listener


def _refuse_public(host: str) -> None:
    """Requests need no key yet, so only this machine may send any."""
    if not ipaddress.ip_address(host).is_loopback:
        raise InvalidInput(
            f"refusing to serve on {host}: requests are not authenticated, so only a loopback address may be bound",
            field="host",
        )


def _prepare_metrics() -> None:
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory:
        Path(directory).mkdir(parents=True, exist_ok=True)


def _configure_log(level: str) -> None:
    """JSON lines on standard error."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(level=max(number, logging.WARNING), stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


if __name__ == "__main__":
    sys.exit(main())
