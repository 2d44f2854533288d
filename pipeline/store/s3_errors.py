"""botocore's errors in the terms of the store."""

# pyright: basic
# botocore makes its classes at run time and has no types

from collections.abc import Generator
from contextlib import contextmanager

from botocore import exceptions as botocore_errors
from botocore.exceptions import ClientError
from urllib3.exceptions import HTTPError

from pipeline.store.backend import BackendError, Changed, Conflict, Missing, Transient
from pipeline.store.errors import StoreError

TRANSIENT_CODES = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InternalError",
    "RequestLimitExceeded",
    "RequestTimeout",
    "RequestTimeTooSkewed",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TokenRefreshRequired",
    "TooManyRequestsException",
}
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
MISSING_CODES = {"NoSuchKey", "NoSuchUpload", "404", "NotFound"}
CREDENTIAL_ERRORS = (botocore_errors.NoCredentialsError, botocore_errors.PartialCredentialsError)
CONNECTION_ERRORS = (
    botocore_errors.ConnectionError,
    botocore_errors.HTTPClientError,
    botocore_errors.IncompleteReadError,
    botocore_errors.CredentialRetrievalError,
    botocore_errors.MetadataRetrievalError,
    botocore_errors.ResponseStreamingError,
    HTTPError,
    ConnectionError,
    TimeoutError,
)


class Expired(Transient):
    """Credentials ran out; the next try has to read them again."""


@contextmanager
def translated(url: str) -> Generator[None]:
    """Turns botocore errors into BackendError or StoreError; what it does not know passes unchanged."""
    try:
        yield
    except ClientError as error:
        raise translation(error, url) from error
    except CREDENTIAL_ERRORS as error:
        raise StoreError(
            f"no credentials for {url}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or give this host a role"
        ) from error
    except botocore_errors.SSLError as error:
        raise StoreError(f"no trusted connection to {url}: {error}; check the address and AWS_CA_BUNDLE") from error
    except CONNECTION_ERRORS as error:
        raise Transient(f"{type(error).__name__}: {error}") from error
    except botocore_errors.ParamValidationError as error:
        raise StoreError(f"{url} is not an address S3 accepts: {error}") from error


def translation(error: ClientError, url: str) -> BackendError | StoreError:
    """What an S3 error answer means."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in EXPIRED_CODES:
        return Expired(f"{status} {code}")
    if status == 412:
        return Changed(code)
    if status == 409:
        return Conflict(f"{status} {code}")
    if code == "NoSuchBucket":
        return StoreError(f"the bucket of {url} does not exist: create it or correct the address")
    if code in MISSING_CODES:
        return Missing(code)
    if status == 501:
        return StoreError(f"{url} does not support what a store needs ({code}); use one with conditional puts")
    if code in TRANSIENT_CODES or status >= 500 or status == 429:
        return Transient(f"{status} {code}")
    return StoreError(f"{url} refuses the request ({status} {code}): check credentials, permissions and the address")
