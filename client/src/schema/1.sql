-- Who this client is, and where its services are. One row.
CREATE TABLE profile (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    endpoints TEXT NOT NULL,
    account_token TEXT NOT NULL,
    identity_seed BLOB NOT NULL,
    establishment_seed BLOB NOT NULL,
    connection_key BLOB NOT NULL,
    connection_token BLOB NOT NULL,
    pool_owner_seed BLOB NOT NULL,
    handle_owner_seed BLOB NOT NULL,
    queue_owner_seed BLOB NOT NULL,
    queue_hpke_seed BLOB NOT NULL,
    queue_id BLOB,
    handle TEXT,
    key_packages_left INTEGER NOT NULL DEFAULT 0,
    last_resort_day INTEGER NOT NULL DEFAULT 0,
    clock_offset_ms INTEGER NOT NULL DEFAULT 0,
    ohttp_key_config BLOB,
    directory TEXT,
    directory_fetched_ms INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Unspent tokens. One that was sent is deleted, whatever the answer: it has been seen.
CREATE TABLE tokens (
    id INTEGER PRIMARY KEY,
    token BLOB NOT NULL UNIQUE,
    in_use INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE contacts (
    signature_key BLOB PRIMARY KEY,
    handle TEXT NOT NULL UNIQUE,
    connection_key BLOB NOT NULL,
    connection_token BLOB NOT NULL
) STRICT;

CREATE TABLE incoming_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signature_key BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    request BLOB NOT NULL
) STRICT;

CREATE TABLE outgoing_requests (
    handle TEXT PRIMARY KEY,
    group_id BLOB NOT NULL UNIQUE,
    credential BLOB NOT NULL,
    establishment_key BLOB NOT NULL,
    response_seed BLOB NOT NULL
) STRICT;

-- Groups that this client is or was in; the MLS library's own state stands beside it.
CREATE TABLE groups (
    group_id BLOB PRIMARY KEY,
    kind INTEGER NOT NULL,
    name TEXT UNIQUE,
    state_key BLOB NOT NULL,
    wrapper_key BLOB NOT NULL,
    recovery_secret BLOB NOT NULL,
    -- 0: the service does not know the recovery secret yet.
    recovery_set INTEGER NOT NULL,
    -- 1: the leaf came from the last-resort KeyPackage and must be replaced.
    update_due INTEGER NOT NULL DEFAULT 0,
    -- 'joining' until the service accepted the creation or join, then 'active', 'removed' or 'lost'.
    status TEXT NOT NULL
) STRICT;

-- Who is behind a leaf credential (SHA-256 of it); kept after a removal, for late messages.
CREATE TABLE identities (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    credential BLOB NOT NULL,
    user_pseudonym BLOB NOT NULL,
    name TEXT,
    signature_key BLOB,
    PRIMARY KEY (group_id, credential)
) STRICT;

-- Private keys of own leaves and KeyPackages by public key.
CREATE TABLE leaf_keys (
    public_key BLOB PRIMARY KEY,
    seed BLOB NOT NULL
) STRICT;

-- The request that a group waits for an answer to: exact bytes, so that a retry is the same request.
CREATE TABLE pending_requests (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    operation INTEGER NOT NULL,
    body BLOB NOT NULL,
    sender BLOB NOT NULL,
    signer_seed BLOB NOT NULL,
    request BLOB NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    -- The commit's AAD, and the contact that an accepted join makes.
    aad BLOB NOT NULL,
    contact BLOB
) STRICT;

-- Queue entries. The payload goes when the item is done; the id stays, so that it is not taken twice.
CREATE TABLE inbox (
    entry_id BLOB PRIMARY KEY,
    day INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    group_id BLOB,
    epoch INTEGER,
    payload BLOB,
    received_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX inbox_open ON inbox (group_id, epoch) WHERE payload IS NOT NULL;

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    event TEXT NOT NULL
) STRICT;
