"""Asking a Stripe sandbox what nobody outside knows, so that the emulator's knobs can be set by answers.

`make stripe-probe`, or `python -m tools.stripe_probe --help`. What it leaves in the sandbox: archived products,
inactive prices and meters, deleted customers, and one customer an identifier is asked about again.
"""
