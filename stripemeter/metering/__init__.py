"""The pure core of usage: events, days, segments, aggregation. No I/O, no clock, no environment."""
