-- What is kept of a group's message keys beside the MLS library's state.
CREATE TABLE upkeep (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    -- How many messages this client has encrypted in this epoch.
    epoch INTEGER NOT NULL DEFAULT 0,
    sent INTEGER NOT NULL DEFAULT 0,
    -- The epoch in which a member could not be read: the next one heals that.
    heal_after INTEGER,
    -- 1: nothing is sent before the own leaf is a new one.
    renew INTEGER NOT NULL DEFAULT 0
) STRICT;

-- What the file beside the database says while both are this home's: see copies.rs. At most one row.
CREATE TABLE home_marker (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    token BLOB NOT NULL,
    -- What the file's inode says, as text: number and time of change.
    inode TEXT NOT NULL,
    -- The token that is about to be written.
    next BLOB
) STRICT;

-- Newcomers who were kept out before, and who are removed by whoever may.
CREATE TABLE kept_out (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    user_pseudonym BLOB NOT NULL,
    PRIMARY KEY (group_id, user_pseudonym)
) STRICT;

-- What a backup says of own leaves, until they are renewed otherwise: see restored.rs.
CREATE TABLE restored_leaves (
    group_id BLOB PRIMARY KEY,
    leaf_seed BLOB NOT NULL,
    leaf_public_key BLOB NOT NULL,
    recovery_secret BLOB NOT NULL,
    number INTEGER
) STRICT;
