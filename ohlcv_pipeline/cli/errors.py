"""What a command raises for the person at the keyboard, and the exit codes of the command line."""

from __future__ import annotations

SUCCESS = 0
FAILED = 1
PARTIAL = 2
USAGE = 64


class CliError(Exception):
    """Something could not be done. The text is one sentence: what was asked, what came back, what to do next."""

    exit_code = FAILED


class UsageError(CliError):
    """The command, or the settings it runs under, ask for something that does not exist."""

    exit_code = USAGE


def expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that are told in one sentence. Imported late: only a failed command needs their modules."""
    from sqlalchemy.exc import DBAPIError

    from ohlcv_pipeline.lake.catalog import LakeError
    from ohlcv_pipeline.ledger.errors import LedgerError
    from ohlcv_pipeline.vendors.errors import VendorError

    return CliError, LakeError, LedgerError, VendorError, DBAPIError


def sentence(error: Exception) -> str:
    """Return what an expected error says to a person, in one line."""
    from sqlalchemy.exc import DBAPIError

    text = f"the ledger's database refused: {error.orig}" if isinstance(error, DBAPIError) else str(error)
    return " ".join(text.split())
