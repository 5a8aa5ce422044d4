-- The own leaf's public key: what is left to come back with when the MLS library's state is gone.
ALTER TABLE groups ADD COLUMN leaf_key BLOB;
-- 1: this client wants to leave; a proposal that lapses with its epoch is made again.
ALTER TABLE groups ADD COLUMN leaving INTEGER NOT NULL DEFAULT 0;
-- How often this client has tried by itself to come back.
ALTER TABLE groups ADD COLUMN rejoin_attempts INTEGER NOT NULL DEFAULT 0;

-- Policies of past epochs whose messages can still come.
CREATE TABLE past_policies (
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    epoch INTEGER NOT NULL,
    policy BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch)
) STRICT;

-- Groups that this client puts another one in the place of, until everybody is in that.
CREATE TABLE successors (
    group_id BLOB PRIMARY KEY REFERENCES groups (group_id) ON DELETE CASCADE,
    successor BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    pseudonym BLOB NOT NULL,
    name TEXT NOT NULL,
    -- JSON: names of the contacts to be added.
    members TEXT NOT NULL,
    ciphersuite INTEGER NOT NULL,
    -- 0: the old group has not ended yet, 1: to be created, 2: to be filled.
    stage INTEGER NOT NULL
) STRICT;
