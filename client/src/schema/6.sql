-- What is known of a group, whatever becomes of the MLS library's state of it and of its row in `groups`: the service
-- is held against it.
CREATE TABLE known_groups (
    group_id BLOB PRIMARY KEY,
    -- The highest epoch that this client was in.
    epoch INTEGER NOT NULL,
    -- The own leaf in that epoch.
    own_leaf INTEGER NOT NULL,
    -- The external senders (RFC 9420 §12.1.8.1) of that epoch, encoded one after the other.
    external_senders BLOB NOT NULL
) STRICT;

-- Every leaf that was ever seen in a group.
CREATE TABLE known_members (
    group_id BLOB NOT NULL,
    -- SHA-256 of the leaf's credential.
    credential BLOB NOT NULL,
    user_pseudonym BLOB NOT NULL,
    -- NULL if the identity link did not open.
    name TEXT,
    signature_key BLOB,
    -- The epoch in which it was no longer there; NULL while it is.
    removed_epoch INTEGER,
    -- Day (since the Unix epoch) of the latest message or commit of this leaf; 0 before the first.
    heard_day INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (group_id, credential)
) STRICT;

-- What a lying service or member would deny: kept for good.
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    -- The epoch that this client was in.
    epoch INTEGER NOT NULL,
    -- The queue entry that brought it (an encoded EntryId); NULL for an answer.
    entry BLOB,
    why TEXT NOT NULL,
    content BLOB NOT NULL,
    seen_ms INTEGER NOT NULL
) STRICT;

-- Members whom the user was shown before coming back: the key of their identity, or the credential's digest.
CREATE TABLE shown_members (
    group_id BLOB NOT NULL,
    member BLOB NOT NULL,
    PRIMARY KEY (group_id, member)
) STRICT;

-- Why the service proposes removals (encoded RemovalReason), by leaf; of the present epoch only.
CREATE TABLE removal_reasons (
    group_id BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    reason BLOB NOT NULL,
    PRIMARY KEY (group_id, leaf_index)
) STRICT;

-- Why this client has stopped following a group; NULL if it has not.
ALTER TABLE groups ADD COLUMN stopped TEXT;
-- 1: the user goes on although this leaf cannot show whose it is.
ALTER TABLE identities ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
