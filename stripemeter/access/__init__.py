"""Access: whether a customer may use what they pay for.

Belongs here: pure rules, from what is known to an answer at an instant. Does not: clocks, tables, HTTP.
"""
