-- What the MLS library keeps, by keys and as values that it writes itself, and what stands beside
-- it. Made each time the database is opened.

-- Of each group: the state of the present epoch, by kinds.
CREATE TABLE IF NOT EXISTS openmls_group_data (
    group_id BLOB NOT NULL,
    data_type TEXT NOT NULL,
    group_data BLOB NOT NULL,
    PRIMARY KEY (group_id, data_type)
);

CREATE TABLE IF NOT EXISTS openmls_own_leaf_nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    group_id BLOB NOT NULL,
    leaf_node BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS openmls_proposals (
    group_id BLOB NOT NULL,
    proposal_ref BLOB NOT NULL,
    proposal BLOB NOT NULL,
    PRIMARY KEY (group_id, proposal_ref)
);

CREATE TABLE IF NOT EXISTS openmls_epoch_keys_pairs (
    group_id BLOB NOT NULL,
    epoch_id BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    key_pairs BLOB NOT NULL,
    PRIMARY KEY (group_id, epoch_id, leaf_index)
);

-- Of no group: keys of this device.
CREATE TABLE IF NOT EXISTS openmls_encryption_keys (
    public_key BLOB PRIMARY KEY,
    key_pair BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS openmls_key_packages (
    key_package_ref BLOB PRIMARY KEY,
    key_package BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS openmls_psks (
    psk_id BLOB PRIMARY KEY,
    psk_bundle BLOB NOT NULL
);

CREATE TABLE IF NOT EXISTS openmls_signature_keys (
    public_key BLOB PRIMARY KEY,
    signature_key BLOB NOT NULL
);

-- The secrets by which a group's messages are opened, as the library writes them, cut in pieces.
CREATE TABLE IF NOT EXISTS mls_secret_pieces (
    group_id BLOB NOT NULL,
    number INTEGER NOT NULL,
    piece BLOB NOT NULL,
    PRIMARY KEY (group_id, number)
);

-- Each state of a group in the MLS library's tables has a name of its own, drawn by whatever change
-- leads to it: who has loaded a group sees by it whether that is still how it stands. Changes of
-- other tables of a group draw one too (`store/database.rs`).

CREATE TABLE IF NOT EXISTS mls_stamps (
    group_id BLOB PRIMARY KEY,
    stamp BLOB NOT NULL
) WITHOUT ROWID;

CREATE TRIGGER IF NOT EXISTS stamp_data_inserted AFTER INSERT ON openmls_group_data BEGIN
    INSERT OR REPLACE INTO mls_stamps VALUES (NEW.group_id, randomblob(16));
END;

CREATE TRIGGER IF NOT EXISTS stamp_data_updated AFTER UPDATE ON openmls_group_data BEGIN
    INSERT OR REPLACE INTO mls_stamps VALUES (NEW.group_id, randomblob(16));
END;

-- Of a group that is gone nothing stays.
CREATE TRIGGER IF NOT EXISTS stamp_data_deleted AFTER DELETE ON openmls_group_data BEGIN
    DELETE FROM mls_stamps WHERE group_id = OLD.group_id;
END;
