"""Settings come from the environment, under the names operators know, and a bad one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from stripemeter.errors import InvalidInput
from stripemeter.runtime.settings import Settings, load_settings


@pytest.fixture(autouse=True)
def an_empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of ours, and a working directory without `.env`."""
    for field in Settings.model_fields.values():
        choices = getattr(field.validation_alias, "choices", [])
        for name in choices:
            monkeypatch.delenv(str(name), raising=False)
    monkeypatch.chdir(tmp_path)


def test_the_state_directory_is_never_the_users_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The shell's HOME is not STRIPEMETER_HOME."""
    monkeypatch.setenv("HOME", "/somewhere")
    assert load_settings().state == tmp_path / ".stripemeter"


def test_our_own_name_wins_over_the_originals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original's variables are honoured unless ours are set."""
    monkeypatch.setenv("API_PORT", "4000")
    assert load_settings().api_port == 4000
    monkeypatch.setenv("STRIPEMETER_API_PORT", "5000")
    assert load_settings().api_port == 5000


def test_the_environment_wins_over_the_env_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`.env` gives defaults for one directory."""
    (tmp_path / ".env").write_text("STRIPEMETER_API_PORT=4000\nSTRIPEMETER_DAGSTER_PORT=4001\n", encoding="ascii")
    monkeypatch.setenv("STRIPEMETER_API_PORT", "5000")
    settings = load_settings()
    assert (settings.api_port, settings.dagster_port) == (5000, 4001)


FOLDERS = [
    ("STRIPEMETER_BACKFILL_SOURCES", text) for text in ("bucket", "s3://", "s3:///in", "s3://a,s3://b//in", "s3://a/..")
]


@pytest.mark.parametrize(
    ("name", "value"),
    [("STRIPEMETER_API_PORT", "seven"), ("STRIPEMETER_API_PORT", "65536"), ("STRIPEMETER_API_WORKERS", "0"), *FOLDERS],
)
def test_an_unusable_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error names the variable as it was set, and what came."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"{name}='{value}'"):
        load_settings()


def test_folders_that_backfills_may_read_end_in_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that s3://a/in does not open s3://a/inside; unset all of S3, which `none` closes."""
    assert load_settings().backfill_folders == ("s3://",)
    monkeypatch.setenv("STRIPEMETER_BACKFILL_SOURCES", "none")
    assert load_settings().backfill_folders == ()
    monkeypatch.setenv("STRIPEMETER_BACKFILL_SOURCES", "s3://a, s3://b/in/,")
    assert load_settings().backfill_folders == ("s3://a/", "s3://b/in/")


def test_an_unusable_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys never reach a message or a repr."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", "sk_live_hush")
    assert "sk_live_hush" not in repr(load_settings())


def test_the_emulator_stands_in_only_without_any_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One Stripe key of either mode is enough to talk to Stripe."""
    assert load_settings().wants_emulator
    monkeypatch.setenv("STRIPE_TEST_SECRET_KEY", "sk_test_1")
    assert not load_settings().wants_emulator
