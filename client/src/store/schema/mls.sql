-- What stands beside the MLS library's own tables, hence after its migrations, each time the
-- database is opened.

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
