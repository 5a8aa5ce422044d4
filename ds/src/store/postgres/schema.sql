-- Version 1. Portable: tables, primary keys, plain indexes; no extension, no procedural code, no
-- sequence. Row names (`id`) are outputs of a keyed PRF or random, values are sealed; days are counted
-- from the Unix epoch. A later version is a file of its own beside this one.

-- One row for each version that was applied.
CREATE TABLE schema_version (version bigint PRIMARY KEY);
INSERT INTO schema_version (version) VALUES (1);

-- What the store knows about itself (`store::Note`).
CREATE TABLE notes (
    name text PRIMARY KEY,
    value bytea NOT NULL
);

-- Without a version it is the tombstone of a deleted group, and all else is null; `proposals` is null
-- when none are pending.
CREATE TABLE groups (
    id bytea PRIMARY KEY,
    version bytea,
    key_check bytea,
    roster bytea,
    tree bytea,
    proposals bytea
);

-- By id, not by day: that one id is reserved once, also around midnight, is then a unique key.
CREATE TABLE reservations (
    id bytea PRIMARY KEY,
    day bigint NOT NULL,
    owner_tag bytea NOT NULL
);
CREATE INDEX reservations_by_day ON reservations (day);

CREATE TABLE join_records (
    day bigint NOT NULL,
    id bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (day, id)
);

CREATE TABLE recovery (
    id bytea PRIMARY KEY,
    sealed bytea NOT NULL
);

CREATE TABLE entries (
    day bigint NOT NULL,
    id bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (day, id)
);

-- `refs`: entries that pointed to it when it was written. Never updated.
CREATE TABLE payloads (
    day bigint NOT NULL,
    id bytea NOT NULL,
    refs bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (day, id)
);

-- References to payloads that were given up: inserted, never updated, so that thousands of recipients
-- who acknowledge at once don't wait for each other's commit. `copy` is random.
CREATE TABLE released (
    day bigint NOT NULL,
    id bytea NOT NULL,
    copy bigint NOT NULL,
    refs bigint NOT NULL,
    PRIMARY KEY (day, id, copy)
);

-- Block markers. One may be set several times: with a unique (day, id) the second insert would wait for
-- the first one's commit, and two groups with a common member would contend. `copy` is random.
CREATE TABLE blocks (
    day bigint NOT NULL,
    id bytea NOT NULL,
    copy bigint NOT NULL,
    PRIMARY KEY (day, id, copy)
);

CREATE TABLE incarnations (
    day bigint NOT NULL,
    id bytea NOT NULL,
    PRIMARY KEY (day, id)
);

CREATE TABLE queues (
    id bytea PRIMARY KEY,
    sealed bytea NOT NULL
);

CREATE TABLE pools (
    id bytea PRIMARY KEY,
    owner_tag bytea NOT NULL
);

CREATE TABLE key_packages (
    pool bytea NOT NULL,
    ciphersuite bigint NOT NULL,
    expiry_day bigint NOT NULL,
    id bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (pool, ciphersuite, expiry_day, id)
);
CREATE INDEX key_packages_by_day ON key_packages (expiry_day);

CREATE TABLE last_resort (
    pool bytea NOT NULL,
    ciphersuite bigint NOT NULL,
    expiry_day bigint NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (pool, ciphersuite)
);
CREATE INDEX last_resort_by_day ON last_resort (expiry_day);

CREATE TABLE handles (
    id bytea PRIMARY KEY,
    owner_tag bytea NOT NULL,
    sealed bytea NOT NULL
);

CREATE TABLE results (
    day bigint NOT NULL,
    id bytea NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (day, id)
);

CREATE TABLE spent (
    issuer_key_id bytea NOT NULL,
    id bytea NOT NULL,
    PRIMARY KEY (issuer_key_id, id)
);
