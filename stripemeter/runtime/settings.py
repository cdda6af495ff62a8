"""Settings: the environment, read once, at an edge.

Belongs here: names, defaults and bounds of what an operator may set. Does not: anything a tenant may set.
Order: process environment, then `.env` in the working directory, then the default.
"""

from __future__ import annotations

import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stripemeter.errors import InvalidInput

NO_SOURCES = "none"
"""Of STRIPEMETER_BACKFILL_SOURCES: no request may name an object of S3."""


class Settings(BaseSettings):
    """Everything an operator may set. Original names are honoured where the original had them."""

    # case_sensitive: fields may be given by name in code, and `home` must never be read from the shell's HOME.
    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", populate_by_name=True, env_ignore_empty=True, case_sensitive=True
    )

    home: Path = Field(default=Path(".stripemeter"), validation_alias=AliasChoices("STRIPEMETER_HOME"))
    api_host: str = Field(default="127.0.0.1", validation_alias=AliasChoices("STRIPEMETER_API_HOST", "API_HOST"))
    api_port: int = Field(
        default=3000, ge=0, le=65535, validation_alias=AliasChoices("STRIPEMETER_API_PORT", "API_PORT", "api_port")
    )
    api_workers: int = Field(
        default_factory=lambda: min(os.cpu_count() or 1, 8),
        ge=1,
        le=64,
        validation_alias=AliasChoices("STRIPEMETER_API_WORKERS", "api_workers"),
    )
    api_cors_origin: str | None = Field(default=None, validation_alias=AliasChoices("API_CORS_ORIGIN"))
    dagster_port: int = Field(
        default=3001, ge=0, le=65535, validation_alias=AliasChoices("STRIPEMETER_DAGSTER_PORT", "dagster_port")
    )
    emulator_port: int = Field(
        default=3003, ge=0, le=65535, validation_alias=AliasChoices("STRIPEMETER_EMULATOR_PORT", "emulator_port")
    )
    database_url: str | None = Field(default=None, validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    postgres_bin: Path | None = Field(default=None, validation_alias=AliasChoices("STRIPEMETER_POSTGRES_BIN"))
    lake: str | None = Field(default=None, validation_alias=AliasChoices("STRIPEMETER_LAKE"))
    retain_months: int | None = Field(
        default=None, ge=2, le=1200, validation_alias=AliasChoices("STRIPEMETER_RETAIN_MONTHS")
    )
    log_level: str = Field(default="info", validation_alias=AliasChoices("STRIPEMETER_LOG_LEVEL", "LOG_LEVEL"))

    stripe_secret_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("STRIPE_SECRET_KEY"))
    stripe_test_secret_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("STRIPE_TEST_SECRET_KEY")
    )
    stripe_sandbox_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("STRIPE_SANDBOX_KEY"))
    stripe_api_base: str | None = Field(default=None, validation_alias=AliasChoices("STRIPEMETER_STRIPE_API_BASE"))
    stripe_calls_per_second: float | None = Field(
        default=None, gt=0, le=10_000, validation_alias=AliasChoices("STRIPEMETER_STRIPE_CALLS_PER_SECOND")
    )
    stripe_connected_accounts: str = Field(
        default="", validation_alias=AliasChoices("STRIPEMETER_STRIPE_CONNECTED_ACCOUNTS")
    )
    stripe_transport: Literal["v1", "v2", "v2_stream"] = Field(
        default="v1", validation_alias=AliasChoices("STRIPEMETER_STRIPE_TRANSPORT")
    )
    stripe_webhook_secrets: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("STRIPEMETER_STRIPE_WEBHOOK_SECRETS", "STRIPE_WEBHOOK_SECRET"),
    )
    stripe_webhook_body_limit_bytes: int = Field(
        default=1_048_576, ge=1024, validation_alias=AliasChoices("STRIPEMETER_STRIPE_WEBHOOK_BODY_LIMIT_BYTES")
    )
    allow_live: bool = Field(default=False, validation_alias=AliasChoices("STRIPEMETER_ALLOW_LIVE"))
    closing: Literal["observe", "control"] = Field(
        default="observe", validation_alias=AliasChoices("STRIPEMETER_CLOSING")
    )

    dunning_days_until_blocked: int = Field(
        default=14, ge=0, le=365, validation_alias=AliasChoices("STRIPEMETER_DUNNING_DAYS_UNTIL_BLOCKED")
    )
    dunning_days_recovered: int = Field(
        default=7, ge=0, le=365, validation_alias=AliasChoices("STRIPEMETER_DUNNING_DAYS_RECOVERED")
    )

    max_ingest_batch: int = Field(default=1000, ge=1, le=10_000, validation_alias=AliasChoices("MAX_INGEST_BATCH"))
    ingest_body_limit_bytes: int = Field(
        default=1_048_576,
        ge=1024,
        validation_alias=AliasChoices("INGEST_BODY_LIMIT_BYTES", "API_BODY_LIMIT_BYTES"),
    )
    max_event_meta_bytes: int = Field(default=4096, ge=2, validation_alias=AliasChoices("MAX_EVENT_META_BYTES"))
    max_adjustment_delta: Decimal = Field(
        default=Decimal(1_000_000), gt=0, validation_alias=AliasChoices("MAX_ADJUSTMENT_DELTA")
    )
    max_backfill_events: int = Field(
        default=5000, ge=1, le=100_000, validation_alias=AliasChoices("MAX_BACKFILL_EVENTS")
    )
    max_direct_backfill_bytes: int = Field(
        default=1_048_576, ge=1024, validation_alias=AliasChoices("MAX_DIRECT_BACKFILL_SIZE")
    )
    backfill_body_limit_bytes: int = Field(
        default=1_048_576, ge=1024, validation_alias=AliasChoices("BACKFILL_BODY_LIMIT_BYTES")
    )
    backfill_sources: str = Field(default="", validation_alias=AliasChoices("STRIPEMETER_BACKFILL_SOURCES"))
    backfill_report_days: int = Field(
        default=90, ge=1, le=36_500, validation_alias=AliasChoices("STRIPEMETER_BACKFILL_REPORT_DAYS")
    )
    reconciliation_body_limit_bytes: int = Field(
        default=262_144, ge=1024, validation_alias=AliasChoices("RECONCILIATION_BODY_LIMIT_BYTES")
    )
    strict_tenant_id_uuid: bool = Field(default=False, validation_alias=AliasChoices("STRICT_TENANT_ID_UUID"))

    @property
    def state(self) -> Path:
        """The state directory, absolute."""
        return self.home.expanduser().resolve()

    @property
    def lake_location(self) -> str:
        """Where the Parquet lake is: `lake/` of the state directory unless set."""
        return self.lake or str(self.state / "lake")

    @property
    def witnesses(self) -> Path:
        """Where it is remembered, outside the database, what was pushed."""
        return self.state / "pushed"

    @property
    def backfill_folders(self) -> tuple[str, ...]:
        """The folders of S3 that requests may name objects of, each with its final slash; unset: all of S3."""
        named = [part.strip() for part in self.backfill_sources.split(",") if part.strip()]
        if named == [NO_SOURCES]:
            return ()
        return tuple(f"{part.rstrip('/')}/" for part in named) or ("s3://",)

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The signing secrets of Stripe's webhooks, separated by commas: two while one is being rotated."""
        named = "" if self.stripe_webhook_secrets is None else self.stripe_webhook_secrets.get_secret_value()
        return _listed(named)

    @property
    def connected_accounts(self) -> tuple[str, ...]:
        """Accounts connected to the keys' own, separated by commas; each is pushed to with the same keys."""
        return _listed(self.stripe_connected_accounts)

    @field_validator("stripe_connected_accounts")
    @classmethod
    def _check_connected_accounts(cls, text: str) -> str:
        for part in _listed(text):
            if re.fullmatch(r"acct_[0-9A-Za-z]{1,96}", part) is None:
                raise ValueError(f"{part!r} is not acct_...; several are separated by commas")
        return text

    @field_validator("backfill_sources")
    @classmethod
    def _check_backfill_sources(cls, text: str) -> str:
        for part in filter(None, (part.strip() for part in text.split(",") if text.strip() != NO_SOURCES)):
            bucket, *folders = part.removeprefix("s3://").removesuffix("/").split("/")
            if not part.startswith("s3://") or not bucket or not {"", ".", ".."}.isdisjoint(folders):
                raise ValueError(f"{part!r} is not s3://BUCKET[/FOLDER] or none; several are separated by commas")
        return text

    @property
    def wants_emulator(self) -> bool:
        """Whether no Stripe key is set, so that the emulator stands in for Stripe."""
        return self.stripe_secret_key is None and self.stripe_test_secret_key is None


def _listed(text: str) -> tuple[str, ...]:
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def load_settings() -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: a value cannot be used; names every such variable and what was expected.
    """
    try:
        return Settings()
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}={problem['input']!r}: {problem['msg']}" for problem in error.errors()]
        raise InvalidInput(
            f"unusable settings: {'; '.join(problems)}. Correct the environment or .env",
            field=str(error.errors()[0]["loc"][0]),
        ) from error
