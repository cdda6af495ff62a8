"""Stripe emulator (not Stripe).

Belongs here: the part of Stripe's v1 API that metering needs, on loopback, with faults on demand, checked on every
request and response against Stripe's own OpenAPI document. Does not: anything of the product. Neither imports the
other; they meet over HTTP.
"""

TITLE = "Stripe emulator (not Stripe)"
