"""`python -m stripe_emulator --port P [--host 127.0.0.1] [--state FILE] [--observed FILE]`.

Belongs here: arguments and the server. Does not: answering requests.
"""

from __future__ import annotations

import argparse
import ipaddress
import sys
from pathlib import Path

import uvicorn

from stripe_emulator import TITLE
from stripe_emulator.app import create_app
from stripe_emulator.contract import load_operations
from stripe_emulator.observed import set_knobs
from stripe_emulator.state import State
from stripe_emulator.transport import BreakableProtocol


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m stripe_emulator", description=TITLE)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address; any other is refused")
    parser.add_argument("--state", type=Path, help="keep everything in this SQLite file; in memory when absent")
    parser.add_argument("--observed", type=Path, help="set the knobs as a Stripe sandbox answered (make stripe-probe)")
    arguments = parser.parse_args(argv)
    if not ipaddress.ip_address(arguments.host).is_loopback:
        parser.error(f"{arguments.host} is not a loopback address: an emulator is not for a network")
    load_operations()
    state = State(arguments.state)
    if arguments.observed is not None:
        try:
            set_knobs(state, arguments.observed)
        except ValueError as error:
            parser.error(f"--observed: {error}")
    print(f"{TITLE} on http://{arguments.host}:{arguments.port}, test keys only", flush=True)  # noqa: T201
    try:
        uvicorn.run(
            create_app(state),
            host=arguments.host,
            port=arguments.port,
            http=BreakableProtocol,
            # asyncio's own loop: uvloop hides the socket that a reset needs.
            loop="asyncio",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
        )
    finally:
        state.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
