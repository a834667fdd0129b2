"""Encrypt a file with age (https://age-encryption.org) while it is written, and decrypt it.

Recipients are public keys of the form ``age1…``; the secret key of any of them decrypts the file. The library, pyrage,
is an optional dependency, so it is imported where it is used.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import D1ConfigurationError, D1ImportFileError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from airflow_provider_d1.staging.streams import Readable

#: the name in manifests
AGE = "age"
AGE_SUFFIX = ".age"
_FIRST_BYTES = (b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----")
_RECIPIENT = re.compile(r"age1[02-9ac-hj-np-z]{58}")
_SECRET_KEY = "AGE-SECRET-KEY-"  # noqa: S105 - what a key begins with


def check_recipients(recipients: Sequence[str] | None) -> None:
    """Check the form of recipients, without pyrage.

    :raises D1ConfigurationError: for one that is not a public key; a secret key is not shown.
    """
    for number, recipient in enumerate(recipients or ()):
        if _RECIPIENT.fullmatch(recipient) is None:
            raise _no_recipient(number, recipient)


def parse_recipients(recipients: Sequence[str] | None) -> list[Any]:
    """The recipients as pyrage's objects.

    :raises D1ConfigurationError: for one that is not a public key, and without pyrage.
    """
    if not recipients:
        return []
    check_recipients(recipients)
    pyrage = _pyrage("age_recipients")
    found = []
    for number, recipient in enumerate(recipients):
        try:
            found.append(pyrage.x25519.Recipient.from_str(recipient))
        except pyrage.RecipientError:
            raise _no_recipient(number, recipient) from None
    return found


def _no_recipient(number: int, recipient: str) -> D1ConfigurationError:
    secret = recipient.upper().startswith(_SECRET_KEY)
    what = "is a secret key" if secret else f"is {recipient!r}, which is not a valid public key"
    return D1ConfigurationError(
        f"age_recipients[{number}] {what}, expected a public key (age1… with 62 characters) as age-keygen prints it"
    )


def parse_identities(key: Secret) -> list[Any]:
    """The secret keys in a text, as pyrage's objects.

    :param key: one key in each line; empty lines and comments (``#``) are ignored, as in a file of ``age-keygen``.
    :raises D1ConfigurationError: for a text without a key or with anything else, and without pyrage; the text is not
        shown.
    """
    pyrage = _pyrage("age_conn_id")
    try:
        found = [pyrage.x25519.Identity.from_str(line) for line in secret_lines(key)]
    except pyrage.IdentityError:
        found = []
    if not found:
        raise D1ConfigurationError("password is not an age secret key, expected AGE-SECRET-KEY-1… as of age-keygen")
    return found


def secret_lines(key: Secret) -> list[Secret]:
    """The lines of a text with secret keys, without empty lines and comments."""
    return [Secret(line.strip()) for line in key.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _pyrage(argument: str) -> Any:  # noqa: ANN401 - a module without types
    try:
        import pyrage
    except ImportError:
        raise D1ConfigurationError(
            f"{argument} needs pyrage, which is not installed: pip install 'airflow-provider-d1[age]'"
        ) from None
    return pyrage


class EncryptingReader(io.RawIOBase):
    """Reads a stream and yields it encrypted, in bounded memory.

    pyrage writes to a file. So it runs in a thread, and writes to a pipe from which this object reads.

    :param source: the plain stream, read in that thread. Its errors are raised by the reader. Closing the reader ends
        the thread, and does not close the source.
    :param recipients: public keys.
    :raises D1ConfigurationError: as :func:`parse_recipients`.
    """

    def __init__(self, source: Readable, recipients: Sequence[str]) -> None:
        super().__init__()
        self._source = source
        self._recipients = parse_recipients(recipients)
        self._error: BaseException | None = None
        output, target = os.pipe()
        self._output = os.fdopen(output, "rb", buffering=0)
        self._thread = threading.Thread(
            target=self._encrypt, args=(os.fdopen(target, "wb"),), name="age-encryption", daemon=True
        )
        self._thread.start()

    def _encrypt(self, target: io.BufferedWriter) -> None:
        import pyrage

        source = _RecordingReader(self._source)
        try:
            with target:
                pyrage.encrypt_io(source, target, self._recipients)
        except BaseException as error:  # noqa: BLE001 - raised by readinto, in the thread that reads
            self._error = source.error or error

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read encrypted bytes.

        At the end it raises the error of the source or of the encryption: an incomplete file does not look complete.
        """
        length = self._output.readinto(buffer)
        if not length:
            self._thread.join()
            if self._error is not None:
                raise self._error
        return length

    def close(self) -> None:
        """End the encryption: its next write to the pipe fails."""
        if not self.closed:
            self._output.close()
            self._thread.join()
        super().close()


class _RecordingReader:
    """Keeps the error of a stream, which pyrage reports as text only."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except BaseException as error:
            self.error = error
            raise


def missing_key(uri: str) -> D1ConfigurationError:
    """The error for an encrypted file without a key."""
    return D1ConfigurationError(
        f"{uri} is encrypted with age, expected age_conn_id: pass the id of a connection whose password is the secret"
        " key (AGE-SECRET-KEY-1…)"
    )


def decrypt_file(path: Path, folder: Path, key: Secret | None, uri: str) -> Path:
    """Decrypt a file into a folder; a file that is not encrypted is returned as it is.

    :param path: the file; removed after decryption if it is in ``folder``.
    :param folder: a temporary folder.
    :param key: text with secret keys.
    :param uri: the file's name, for messages.
    :raises D1ConfigurationError: when the file is encrypted, and the key is missing or another one.
    :raises D1ImportFileError: when the encrypted data is truncated or damaged.
    """
    with path.open("rb") as source:
        if not source.peek(64).startswith(_FIRST_BYTES):
            return path
        if key is None:
            raise missing_key(uri)
        identities = parse_identities(key)
        pyrage = _pyrage("age_conn_id")
        target = folder / "decrypted"
        try:
            with target.open("wb") as plain:
                pyrage.decrypt_io(source, plain, identities)
        except pyrage.DecryptError as error:
            raise D1ConfigurationError(
                f"{uri} cannot be decrypted ({error}), expected the secret key of one of its recipients: check the"
                " password of the connection age_conn_id"
            ) from None
        except OSError as error:
            if error.errno is not None:  # of this machine, such as a full disk
                raise
            raise D1ImportFileError(f"{uri} is truncated or damaged ({error})") from None
    if path.parent == folder:
        path.unlink()
    return target
