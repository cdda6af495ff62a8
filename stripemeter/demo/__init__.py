"""The demo behind `make demo`: a year of real departures through the whole system, checked against their source."""
