"""Private messaging in groups: the mimimi SDK.

A `Client` is one device of one user, kept in a home directory. Calls that wait for the network are
coroutines; all others read or write the database at once, and may be held up by another one's
write. `follow` iterates over what happens.
Every call that fails raises a `ClientError`, which is one of seven kinds with a stable `code` and a
`fault`: who has to act.
"""

from collections.abc import AsyncGenerator
from typing import TypeAlias

from ._errors import (
    IssuerError,
    LocalError,
    NetworkError,
    PeerError,
    RefusedError,
    ServiceError,
    UsageError,
)
from ._sdk import (
    Attachment,
    BackupKey,
    Bundle,
    Client,
    ClientError,
    Contact,
    Device,
    Disagreement,
    Draft,
    EpochAuthenticator,
    Event,
    Events,
    Evidence,
    Expiry,
    Fault,
    Gone,
    GroupProfile,
    GroupSummary,
    HistoryScope,
    ImportedHistory,
    IncomingRequest,
    KeyPackageCount,
    LinkCode,
    Member,
    Message,
    MessageDetails,
    MessageState,
    Options,
    Picture,
    Profile,
    PushAddress,
    PushConsent,
    QueuedMessage,
    Reaction,
    Receipt,
    Receipts,
    RemovalReason,
    ReportReason,
    RequestPolicy,
    StopReason,
    StoreChange,
    StoredEvent,
    TextFormat,
    Thumbnail,
    TransferListener,
    UploadOptions,
    VerifiedGroup,
    WaitListener,
    new_recovery_key,
)

# Texts; other types for them would have to be converted everywhere.
GroupId: TypeAlias = str
MessageId: TypeAlias = str
UserId: TypeAlias = str


async def follow(client: Client) -> AsyncGenerator[StoredEvent, None]:
    """Events as they come, unacknowledged ones first, until the client is stopped.

    While it is there, the client reads as its profile says. It ends with the iteration when that
    runs out or is closed: where the loop is left early, `contextlib.aclosing` does so at once, and
    the garbage collector at some time.
    """
    events = client.event_stream()
    try:
        seen = 0
        while (stored := await events.next_event(seen)) is not None:
            seen = stored.id
            yield stored
    finally:
        events.end()


__all__ = [
    "Attachment",
    "BackupKey",
    "Bundle",
    "Client",
    "ClientError",
    "Contact",
    "Device",
    "Disagreement",
    "Draft",
    "EpochAuthenticator",
    "Event",
    "Events",
    "Evidence",
    "Expiry",
    "Fault",
    "Gone",
    "GroupId",
    "GroupProfile",
    "GroupSummary",
    "HistoryScope",
    "ImportedHistory",
    "IncomingRequest",
    "IssuerError",
    "KeyPackageCount",
    "LinkCode",
    "LocalError",
    "Member",
    "Message",
    "MessageDetails",
    "MessageId",
    "MessageState",
    "NetworkError",
    "Options",
    "PeerError",
    "Picture",
    "Profile",
    "PushAddress",
    "PushConsent",
    "QueuedMessage",
    "Reaction",
    "Receipt",
    "Receipts",
    "RefusedError",
    "RemovalReason",
    "ReportReason",
    "RequestPolicy",
    "ServiceError",
    "StopReason",
    "StoreChange",
    "StoredEvent",
    "TextFormat",
    "Thumbnail",
    "TransferListener",
    "UploadOptions",
    "UsageError",
    "UserId",
    "VerifiedGroup",
    "WaitListener",
    "follow",
    "new_recovery_key",
]
