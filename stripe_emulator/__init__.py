"""Stripe emulator (not Stripe).

Belongs here: the part of Stripe's API that metering needs, on loopback, with faults on demand. v1 is checked on every
request and response against Stripe's own OpenAPI document, v2 against the official SDK's types. Does not: anything of
the product. Neither imports the other; they meet over HTTP.
"""

TITLE = "Stripe emulator (not Stripe)"
