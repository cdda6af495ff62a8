"""StripeMeter: usage metering for companies that bill through Stripe.

Importing this package costs nothing: no server, no data frame, no Dagster. The public library surface lives in
`stripemeter.errors`, `stripemeter.metering` and the other packages named in `docs/architecture.md`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("stripemeter")
except PackageNotFoundError:  # running from a checkout that was never installed
    __version__ = "0+unknown"
