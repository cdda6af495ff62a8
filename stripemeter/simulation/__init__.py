"""Simulation: what customers would be billed in a story somebody writes down, and whether that is what was expected.

Belongs here: scenarios, running them on a clock of their own, comparing. Does not: counting (`metering`), prices
(`pricing`), files and commands (`cli`).
"""
