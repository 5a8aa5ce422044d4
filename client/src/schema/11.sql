-- The group's policy (encoded GroupPolicy) in the highest epoch that this client was in; NULL if there was none, or if
-- it is not known.
ALTER TABLE known_groups ADD COLUMN policy BLOB;
-- Tokens that were paid because the service refused a request, by day (since the Unix epoch).
CREATE TABLE paid_for_refusals (
    day INTEGER PRIMARY KEY,
    tokens INTEGER NOT NULL
) STRICT;
-- Commits that this client has made and may have sent (SHA-256), of the present epoch. One that the service has refused
-- and plays later is no other copy's.
CREATE TABLE own_commits (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    digest BLOB NOT NULL,
    PRIMARY KEY (group_id, digest)
) STRICT;
