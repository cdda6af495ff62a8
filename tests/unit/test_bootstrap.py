"""The environment is built from the machine's own package settings, whichever tool does it."""

from __future__ import annotations

from tools.bootstrap import parse_pip_settings, uv_environment

LISTING = """\
:env:.index-url='https://mirror.example/simple'
global.cert='/etc/ssl/ca.crt'
global.extra-index-url='\\nfile:///srv/a\\nfile:///srv/b'
global.index-url='https://other.example/simple'
freeze.timeout='10'
"""


def test_pip_settings_are_read_as_pip_reads_them() -> None:
    """The environment outranks files, a list over several lines is one list, other commands' sections do not count."""
    assert parse_pip_settings(LISTING) == {
        "index-url": "https://mirror.example/simple",
        "cert": "/etc/ssl/ca.crt",
        "extra-index-url": "file:///srv/a file:///srv/b",
    }
    assert parse_pip_settings("") == {}


def test_uv_is_told_what_pip_knows() -> None:
    """Index, extra indexes and certificate reach uv under its own names; what the user set for uv stays."""
    environment = uv_environment(parse_pip_settings(LISTING), {"UV_INDEX": "mine", "PATH": "/bin"})
    assert environment == {
        "PATH": "/bin",
        "UV_INDEX": "mine",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "SSL_CERT_FILE": "/etc/ssl/ca.crt",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }
