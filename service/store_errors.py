"""What the errors of SQLite and of the file system mean: damage, a passing trouble, or a full disk."""

import errno
import sqlite3

UNUSABLE = (ValueError, KeyError, OSError, sqlite3.DatabaseError)
"""What opening a store raises that cannot be used: damaged, or out of reach at present."""
_PASSING = {
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_AUTH),
}
STORE_ERROR = sqlite3.Error
"""What a store raises that cannot be read or written at present, as where the disk is full."""


def is_passing(error: BaseException) -> bool:
    """Return whether what keeps a store from being opened lies outside of its content: rights, room, too many open files."""
    causes = [error, error.__cause__]
    codes = [getattr(cause, "sqlite_errorcode", 0) & 0xFF for cause in causes]
    is_missing = any(isinstance(cause, FileNotFoundError) for cause in causes)
    return not is_missing and (
        any(code in _PASSING for code in codes) or any(isinstance(cause, OSError) for cause in causes)
    )


def is_disk_full(error: BaseException) -> bool:
    """Return whether there was no room for what was to be written."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
