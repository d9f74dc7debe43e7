"""What the ledger raises for the person who must act. Failures of the database itself stay SQLAlchemy's."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.exc import DontWrapMixin


class LedgerError(Exception):
    """Anything the ledger refuses or cannot do."""


class LedgerOpenError(LedgerError):
    """The ledger could not be opened: wrong URL, server away, or a file that SQLite will not take."""


class MigrationError(LedgerError):
    """The schema could not be brought to what this version of the package expects; nothing was changed."""


class UnknownSymbolError(LedgerError, LookupError):
    """The market has no such symbol in the ledger."""


class SymbolExistsError(LedgerError):
    """The market already has that symbol."""


class OverlapError(LedgerError):
    """A backfill of the same table is queued or running and overlaps what was asked for."""

    def __init__(self, run_id: UUID) -> None:
        super().__init__(f"run {run_id} already fetches a part of this window; wait for its end")
        self.run_id = run_id


class KeyReusedError(LedgerError):
    """An idempotency key was used within a day for something else."""

    def __init__(self, run_id: UUID) -> None:
        super().__init__(f"the key was used for another request, run {run_id}; use a new one")
        self.run_id = run_id


class NaiveTimestampError(DontWrapMixin, ValueError):
    """A timestamp without a time zone was about to be stored or compared.

    `DontWrapMixin` keeps SQLAlchemy from hiding it in a StatementError.
    """
