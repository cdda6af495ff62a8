"""The HTTP receiver and reads: one router per noun, and the hot ingest route ahead of the framework."""
