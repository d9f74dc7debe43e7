"""Every knob in one validated place, read from the environment and `.env`.

What a market is (calendar, symbols, vendors in order) is declared in `markets`; here is only what differs
between two installations of the same code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ohlcv_pipeline.markets import MARKETS, Interval

LIVE_URLS: Mapping[str, str] = {
    "coinbase": "https://api.exchange.coinbase.com",
    "kraken": "https://api.kraken.com",
    "binance": "https://data-api.binance.vision",
    "binance_archive": "https://data.binance.vision",
    "alpaca": "https://data.alpaca.markets",
    "tiingo": "https://api.tiingo.com",
    "finnhub": "https://finnhub.io/api/v1",
}

KEY_VARIABLES: Mapping[str, Mapping[str, str]] = {
    "alpaca": {"key_id": "APCA_API_KEY_ID", "key": "APCA_API_SECRET_KEY"},
    "tiingo": {"key": "TIINGO_API_KEY"},
    "finnhub": {"key": "FINNHUB_API_KEY"},
}
"""Vendor → field of its settings → the vendor's own name of the variable, read beside `OHLCV_VENDORS__…`."""

FOLDER_VENDORS = frozenset({"files"})
"""Vendors that are a folder on this machine: they have no address, no key and no limits, in either profile."""

NO_KEY = SecretStr("")
SANDBOX_KEY = SecretStr("sandbox")


class VendorSettings(BaseModel):
    """How one vendor is reached and how hard it may be asked."""

    base_url: str = ""
    requests_per_second: float | None = Field(5.0, gt=0, description="None lifts the limit")
    burst: int = Field(5, ge=1)
    weight_per_minute: int | None = Field(1200, gt=0, description="None lifts the limit")
    concurrency: int = Field(4, ge=1, le=64)
    deadline_seconds: float = Field(10.0, gt=0, description="of one call, connecting included")
    attempts: int = Field(5, ge=1, le=10)
    key_id: SecretStr = Field(NO_KEY, description="the public part of a key in two parts")
    key: SecretStr = NO_KEY
    feed: Literal["sip", "iex"] = Field("sip", description="alpaca only")
    folder: str = Field("", description="files only: where the bars lie")


SANDBOX_MAIL_TO = ("oncall@example.org",)
MAIL_PORT_OFFSET = 25
_ADDRESS = re.compile(r"[^\s@,<>]+@[^\s@,<>]+")


@dataclass(frozen=True)
class MailSettings:
    """A mail server, how it is spoken to, who writes and who is written to."""

    host: str
    port: int
    security: Literal["starttls", "ssl", "none"]
    user: str
    password: SecretStr
    sender: str
    to: tuple[str, ...]


def sandbox_mail_address(sandbox_url: str) -> tuple[str, int] | None:
    """Return host and port where a sandbox takes mail: 25 above its own port. None where that is no port."""
    parts = urlsplit(sandbox_url)
    if parts.hostname is None or parts.port is None or parts.port + MAIL_PORT_OFFSET > 65535:
        return None
    return parts.hostname, parts.port + MAIL_PORT_OFFSET


def _markets_on(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the markets that are on unless named: those that can be fetched with the keys there are."""
    if given["profile"] == "sandbox":
        return ("crypto", "us_equities")
    vendors = MARKETS["us_equities"].vendors
    keys = [given[variable.lower()] for vendor in vendors for variable in KEY_VARIABLES[vendor].values()]
    keys += [given["vendors"][vendor].key for vendor in vendors if vendor in given["vendors"]]
    return ("crypto", "us_equities") if any(key.get_secret_value() for key in keys) else ("crypto",)


class Settings(BaseSettings):
    """One object that opens lake and ledger and points the adapters at their vendors."""

    model_config = SettingsConfigDict(
        env_prefix="OHLCV_", env_nested_delimiter="__", env_file=".env", extra="ignore", frozen=True
    )

    profile: Literal["sandbox", "live"] = "sandbox"
    home: Path = Path("var")
    sandbox_url: str = "http://127.0.0.1:8900"
    lake_catalog: str = Field("", description="postgres:… connection, or empty for SQLite below home")
    lake_data: str = Field("", description="where Parquet files go, or empty for a folder below home")
    ledger_url: str = Field("", description="SQLAlchemy URL, or empty for SQLite below home")
    dagster_url: str = Field("", description="where people find the Dagster UI, or empty for that of `ohlcv up`")
    admin_token: SecretStr = Field(NO_KEY, description="what operators send as X-Admin-Token; live needs one to serve")
    read_rate_per_minute: int = Field(600, ge=0, description="GET requests of one address, 0 for no limit")
    write_rate_per_minute: int = Field(60, ge=0, description="POST requests of one address, 0 for no limit")
    request_seconds: float = Field(10.0, gt=0, description="until the answer to a request begins")
    metrics_address: str = Field(
        "127.0.0.1:9464", description="where Prometheus asks while the service runs, empty for nowhere"
    )
    schedules: bool = Field(True, description="whether the schedules run from the start")
    raw_retention_days: int = Field(30, ge=1)
    snapshot_retention_days: int = Field(7, ge=1)
    dagster_run_retention_days: int = Field(7, ge=1, description="runs of Dagster without trouble; failed ones 35")
    batch_rows: int = Field(216_000, ge=1_000, description="rows fetched and committed together")
    coverage_error_pct: float = Field(95.0, ge=0, le=100, description="below it a partition's gaps are an ERROR")
    freshness_threshold_minutes: float = Field(60.0, gt=0)
    remediation_attempts: int = Field(5, ge=1, description="runs launched for one gap before a person has to look")
    remediation_wait_seconds: float = Field(
        60.0, gt=0, description="before the second attempt; then four times as long"
    )
    freshness_thresholds: Annotated[dict[str, float], NoDecode] = Field(
        default_factory=dict, description="<market>/<interval>=<minutes>, where another threshold holds"
    )
    public_url: str = Field(
        "http://127.0.0.1:8000", description="where people find the status page, for links in mails"
    )
    monitor_interval_minutes: float = Field(10.0, gt=0, le=20, description="freshness is evaluated at least so often")
    alert_open_after: int = Field(1, ge=1, description="evaluations in a row that must see a breach before it is told")
    alert_cleared_notice: bool = Field(False, description="whether the end of an incident is told, too")
    alert_mail_to: Annotated[tuple[str, ...], NoDecode] = Field((), description="the distribution list")
    alert_mail_from: str = "ohlcv@localhost"
    alert_mail_domain: str = Field("", description="of Message-IDs, or empty for that of the sender")
    smtp_host: str = Field("", description="empty: no mail; in the sandbox profile the sandbox takes it")
    smtp_port: int = Field(587, ge=1, le=65535)
    smtp_security: Literal["starttls", "ssl", "none"] = "starttls"
    smtp_user: str = ""
    smtp_password: SecretStr = NO_KEY
    alert_apprise_urls: Annotated[tuple[SecretStr, ...], NoDecode] = Field((), description="channels as apprise URLs")
    alert_webhook_url: SecretStr = Field(NO_KEY, description="takes the incident as JSON")
    alert_webhook_secret: SecretStr = Field(NO_KEY, description="signs the webhook's body")
    vendors: dict[str, VendorSettings] = Field(default_factory=dict)
    apca_api_key_id: SecretStr = Field(NO_KEY, validation_alias="APCA_API_KEY_ID")
    apca_api_secret_key: SecretStr = Field(NO_KEY, validation_alias="APCA_API_SECRET_KEY")
    tiingo_api_key: SecretStr = Field(NO_KEY, validation_alias="TIINGO_API_KEY")
    finnhub_api_key: SecretStr = Field(NO_KEY, validation_alias="FINNHUB_API_KEY")
    markets: Annotated[tuple[str, ...], NoDecode] = Field(
        default_factory=lambda given: _markets_on(given),
        description="crypto, and us_equities where it can be fetched: in the sandbox, or with a key",
    )

    @field_validator("markets", "alert_mail_to", "alert_apprise_urls", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("markets")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in MARKETS]
        if unknown or not names:
            raise ValueError(f"unknown market {', '.join(unknown) or '(none)'}; there are {', '.join(MARKETS)}")
        return names

    @field_validator("freshness_thresholds", mode="before")
    @classmethod
    def _thresholds(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return dict(part.strip().split("=", 1) for part in value.split(",") if part.strip())

    @field_validator("freshness_thresholds")
    @classmethod
    def _of_tables(cls, given: dict[str, float]) -> dict[str, float]:
        tables = [f"{name}/{interval}" for name in MARKETS for interval in Interval]
        for table, minutes in given.items():
            if table not in tables:
                raise ValueError(f"{table} is not one of {', '.join(tables)}")
            if not minutes > 0:
                raise ValueError(f"the threshold of {table} must be above 0 minutes")
        return given

    @field_validator("alert_mail_to")
    @classmethod
    def _addresses(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [address for address in given if not _ADDRESS.fullmatch(address)]
        if wrong:
            raise ValueError(f"{wrong[0]!r} is no mail address; write e.g. oncall@example.org,desk@example.org")
        return given

    @field_validator("metrics_address")
    @classmethod
    def _host_and_port(cls, given: str) -> str:
        host, _, port = given.rpartition(":")
        if given and (not host or not port.isdecimal() or int(port) > 65535):
            raise ValueError(f"{given!r} is no address to listen on; write e.g. 127.0.0.1:9464")
        return given

    @property
    def metrics_host_and_port(self) -> tuple[str, int] | None:
        """Where the service listens for whoever collects metrics, None for nowhere."""
        host, _, port = self.metrics_address.rpartition(":")
        return (host.strip("[]"), int(port)) if host else None

    def freshness_threshold(self, market: str, interval: Interval) -> float:
        """Return how many minutes of market time a series of a table may lag."""
        return self.freshness_thresholds.get(f"{market}/{interval}", self.freshness_threshold_minutes)

    @property
    def mail(self) -> MailSettings | None:
        """How mail is sent, None where it is not. In the sandbox profile the sandbox takes it, unless a host is set."""
        to, host = self.alert_mail_to, self.smtp_host
        if not host and self.profile == "sandbox":
            sink = sandbox_mail_address(self.sandbox_url)
            if sink is None:
                return None
            return MailSettings(*sink, "none", "", NO_KEY, self.alert_mail_from, to or SANDBOX_MAIL_TO)
        if not host or not to:
            return None
        return MailSettings(
            host,
            self.smtp_port,
            self.smtp_security,
            self.smtp_user,
            self.smtp_password,
            self.alert_mail_from,
            to,
        )

    @property
    def message_domain(self) -> str:
        """The domain of the alerts' Message-IDs."""
        return self.alert_mail_domain or self.alert_mail_from.rpartition("@")[2]

    def vendor(self, name: str) -> VendorSettings:
        """Return a vendor's settings with its address and its keys filled in, unless set.

        In the sandbox profile the address points at the sandbox, the limits are lifted, and the keys from the
        vendor's own variables are not used: a placeholder is sent.
        """
        given = self.vendors.get(name, VendorSettings())
        keys = KEY_VARIABLES.get(name, {})
        fill: dict[str, object] = {}
        if name in FOLDER_VENDORS:
            fill = {"requests_per_second": None, "weight_per_minute": None}
        elif self.profile == "sandbox":
            fill = {"requests_per_second": None, "weight_per_minute": None, **dict.fromkeys(keys, SANDBOX_KEY)}
            fill["base_url"] = f"{self.sandbox_url}/{name}"
        elif name in LIVE_URLS:
            fill = {field: getattr(self, variable.lower()) for field, variable in keys.items()}
            fill["base_url"] = LIVE_URLS[name]
        return given.model_copy(update={k: v for k, v in fill.items() if k not in given.model_fields_set})

    @property
    def root(self) -> Path:
        """Where everything is kept. Each profile has its own, so that invented bars never meet real ones."""
        return self.home.resolve() / self.profile

    @property
    def catalog_path(self) -> str:
        """The lake's catalog as DuckLake's ATTACH spells it."""
        return self.lake_catalog or f"sqlite:{self.root / 'lake' / 'catalog.sqlite'}"

    @property
    def data_path(self) -> str:
        """Where the lake's Parquet files are."""
        return self.lake_data or str(self.root / "lake" / "data")

    @property
    def ledger(self) -> str:
        """The ledger as a SQLAlchemy URL."""
        return self.ledger_url or f"sqlite:///{self.root / 'ledger.sqlite'}"

    @property
    def raw_path(self) -> Path:
        """Where the vendors' answers are kept."""
        return self.root / "raw"

    @property
    def dagster_home(self) -> Path:
        """Where Dagster's instance is kept."""
        return self.root / "dagster"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return Settings()
