"""What the hub's errors are called: one sentence each, with the mend, and never a URL with a signature in it."""

from collections.abc import Iterator
from contextlib import contextmanager

from rm_workflow.errors import UserError
from rm_workflow.hub.download import (
    BadTransferError,
    NotTheHubError,
    cause,
    retry_after,
    status_of,
    transport_error,
)
from rm_workflow.hub.lock import HUB_LOCK
from rm_workflow.settings import Settings


class NotInRepositoryError(UserError):
    """The commit does not hold the file, or the repository no longer has the commit."""


@contextmanager
def hub_told(repository: str, settings: Settings, file: str = "") -> Iterator[None]:
    """Turn the hub's errors about a data set into one sentence each.

    The error itself, which may hold a signed URL, is cut off, so that no traceback and no event of Dagster shows it.
    """
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled, RevisionNotFoundError

    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError(f"hub: {_offline(repository)}") from None
    except BadTransferError as error:
        raise UserError(
            f"hub: {cause(error)} again and again; run again later, what has come is kept and continued"
        ) from None
    except NotTheHubError as error:
        raise UserError(
            f"hub: {repository}: {error}, which is not how the Hugging Face hub answers; correct HF_ENDPOINT, or the "
            "proxy in between"
        ) from None
    except RevisionNotFoundError:
        raise NotInRepositoryError(
            f"hub: {repository} no longer has the commit recorded in {HUB_LOCK}; see {_page(repository)}/commits/main, "
            "and take the newest with `rmw sources update`"
        ) from None
    except EntryNotFoundError:
        raise NotInRepositoryError(
            f"hub: {repository} has no file {file} at the locked commit; see {_page(repository)}/tree/main and correct "
            "`files`"
        ) from None
    except (transport_error(), ConnectionError) as error:
        refused = status_of(error) is not None
        sentence = _refused(repository, error) if refused else _unreachable(repository, error, settings)
        raise UserError(f"hub: {sentence}") from None


def _page(repository: str) -> str:
    return f"https://huggingface.co/datasets/{repository}"


def _refused(repository: str, error: Exception) -> str:
    status = status_of(error)
    if status in (401, 403):
        return (
            f"{repository} is gated or private (HTTP {status}); accept its licence at {_page(repository)} and log in "
            "with `hf auth login`, or correct the id if there is no such page"
        )
    if status == 404:
        return f"there is no dataset {repository} (HTTP 404); correct the id in the catalogue"
    seconds = retry_after(error)
    wait = f"in {seconds:,.0f} s" if seconds else "later"
    return (
        f"{repository} cannot be read now (the hub answers HTTP {status}); run again {wait}, files that came are kept"
    )


def _offline(repository: str) -> str:
    return (
        f"{repository} is not in the cache and HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to ask the hub; unset "
        f"it, or set RMW_HUB_MIRROR to a folder that holds {repository}"
    )


def _unreachable(repository: str, error: Exception, settings: Settings) -> str:
    if settings.hub_mirror:
        return (
            f"the mirror folder {settings.hub_mirror} (RMW_HUB_MIRROR) holds no {repository}, and the Hugging Face hub "
            f"cannot be reached ({cause(error)}); put the repository into the mirror or connect"
        )
    return (
        f"{repository} is not in the cache and the Hugging Face hub cannot be reached ({cause(error)}); connect, or "
        f"set RMW_HUB_MIRROR to a folder that holds {repository}"
    )
