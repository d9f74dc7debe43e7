"""What the ledger raises for the person who must act. Failures of the database itself stay SQLAlchemy's."""

from __future__ import annotations

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


class NaiveTimestampError(DontWrapMixin, ValueError):
    """A timestamp without a time zone was about to be stored or compared.

    `DontWrapMixin` keeps SQLAlchemy from hiding it in a StatementError.
    """
