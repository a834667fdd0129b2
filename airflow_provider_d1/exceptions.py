"""The errors of this package, all subclasses of :class:`D1Error`.

``retryable`` says whether the same call can succeed later. The operators turn an error that is not retryable into
``AirflowFailException``, which ends the task without further retries. No message contains an API token or a signed URL.
"""

from __future__ import annotations

from typing import ClassVar


class D1Error(Exception):
    """Base of all errors of this package.

    ``retryable`` is True when the same call may succeed later without any change.

    :param message: the error's text: what is wrong, and the remedy where there is one.
    :param retryable: None keeps the class's default.
    """

    retryable: bool = False
    #: name → class, so that the triggerer can send an error to the worker as plain JSON
    _by_name: ClassVar[dict[str, type[D1Error]]] = {}

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        D1Error._by_name[cls.__name__] = cls

    @staticmethod
    def from_name(name: str, message: str, *, retryable: bool) -> D1Error:
        """Rebuild an error that was sent as plain JSON (a trigger event); an unknown name gives a plain D1Error.

        :param name: the class's name, as in ``type(error).__name__``.
        :param message: the text.
        :param retryable: as sent; it overrides the class's default.
        """
        return D1Error._by_name.get(name, D1Error)(message, retryable=retryable)


class D1ConfigurationError(D1Error):
    """An invalid connection or argument; the message names the field and the expected value."""


class D1ApiError(D1Error):
    """The D1 API refused or failed a request.

    :param message: the error's text: what is wrong, and the remedy where there is one.
    :param status: HTTP status, None when no response arrived.
    :param code: Cloudflare's own code (7400, 7500, 10000, …), None when the body had none.
    :param retryable: whether sending the request again may help.
    :param retry_after: the server's ``retry-after`` in seconds, None without one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, retryable=retryable)
        self.message = message
        self.status = status
        self.code = code
        self.retry_after = retry_after


class D1ConnectionError(D1ApiError):
    """No complete response arrived: no connection, a reset, a timeout, a cut body.

    :param message: what happened.
    :param sent: False when the request was certainly not sent, so that repeating it cannot have two effects.
    :param retryable: False where repeating cannot help (an untrusted certificate).
    """

    retryable = True

    def __init__(self, message: str, *, sent: bool = True, retryable: bool | None = None) -> None:
        super().__init__(message, retryable=retryable)
        self.sent = sent


class D1AuthenticationError(D1ApiError):
    """The token is wrong, expired, or lacks the D1 permission."""


class D1DatabaseNotFoundError(D1ApiError):
    """No database of that exact name or UUID in the account."""


class D1RateLimitError(D1ApiError):
    """Cloudflare's request limit (1,200 calls in 5 minutes for a token) is exceeded, or D1 is overloaded."""

    retryable = True

    def __init__(
        self,
        message: str,
        *,
        status: int | None = 429,
        code: int | None = None,
        retryable: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code, retryable=retryable, retry_after=retry_after)


class D1ExportError(D1Error):
    """D1 failed to export the database, and no subclass describes the reason."""

    retryable = True


class D1TableNotFoundError(D1ExportError):
    """A table in ``tables`` does not exist; D1 itself would have exported an empty dump without an error."""

    retryable = False


class D1VirtualTableError(D1ExportError):
    """The database has virtual tables (FTS5 …): D1 cannot export them, and the attempt has left databases locked."""

    retryable = False


class D1ExportBusyError(D1ExportError):
    """Another export of this database was still running at the deadline."""


class D1ExportLostError(D1ExportError):
    """D1 lost the export more often than ``max_restarts`` allows."""


class D1ExportTimeoutError(D1ExportError):
    """The export did not finish within ``timeout`` seconds."""


class D1ImportError(D1Error):
    """An import failed; the database is as it was before it."""

    retryable = True


class D1ImportFileError(D1ImportError):
    """A file that D1 cannot import, found before anything was sent.

    :param message: what was found, and the remedy.
    :param offset: byte offset of the statement in the uncompressed file.
    """

    retryable = False

    def __init__(self, message: str, *, offset: int | None = None, retryable: bool | None = None) -> None:
        super().__init__(message if offset is None else f"byte {offset}: {message}", retryable=retryable)
        self.offset = offset


class D1ImportLostError(D1ImportError):
    """D1 forgot the import more often than ``max_restarts`` allows."""


class D1ImportTimeoutError(D1ImportError):
    """The import did not finish within ``timeout`` seconds."""


class D1UploadError(D1ImportError):
    """The file of an import could not be uploaded whole."""


class D1DownloadError(D1Error):
    """The dump could not be downloaded completely."""

    retryable = True


class D1SignedUrlExpiredError(D1DownloadError):
    """The signed URL has expired; only a new export returns a new one."""


class D1SealError(D1DownloadError):
    """A sealed URL cannot be decrypted with this connection's token: it was sealed with another one, or is damaged."""

    retryable = False


class D1DumpError(D1Error):
    """The dump contains something that neither D1 nor ``sqlite3 .dump`` writes.

    :param message: what was found.
    :param offset: byte offset of the statement in the uncompressed dump.
    :param table: the table being read, when known.
    """

    def __init__(
        self,
        message: str,
        *,
        offset: int | None = None,
        table: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        at = "" if offset is None else f"byte {offset}: "
        where = "" if table is None else f"table {table!r}: "
        super().__init__(f"{at}{where}{message}", retryable=retryable)
        self.offset = offset
        self.table = table


class D1LossyExportError(D1Error):
    """``on_lossy="fail"``: D1's export has altered values of at least one column."""


#: the former name; code that catches it, and events and pickles that hold it, still work
D1FidelityError = D1LossyExportError
D1Error._by_name["D1FidelityError"] = D1LossyExportError  # noqa: SLF001 - the alias's entry


class D1TypeConflictError(D1Error):
    """``on_type_conflict="fail"``: a column holds values that do not fit its declared type."""


class D1StagingError(D1Error):
    """Staged files or the manifest could not be written, or did not arrive completely."""

    retryable = True


class D1ManifestError(D1Error):
    """A manifest, or a staged file that it lists, is missing, malformed or of an unknown version."""


class D1WarehouseError(D1Error):
    """A staged manifest could not be loaded; the warehouse's tables are as they were."""
