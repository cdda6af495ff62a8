"""Our own lints: the recurring remarks of a review, said once and by a program.

Belongs here: one module per remark, each with a `check` and the name of its escape. Does not: anything ruff, mypy,
import-linter, sqlfluff or squawk can be told to see.

A finding is excused by a comment on one of its lines: `# allow-<lint>: <reason>`. The reason is not optional.
"""
