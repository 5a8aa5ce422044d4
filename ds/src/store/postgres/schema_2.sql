-- Version 2. The issuer keys that are gone from the issuer's directory: since when (milliseconds since the
-- Unix epoch), and whether their spent-set was dropped, after which nothing can be spent under them.
CREATE TABLE issuer_keys (
    id bytea PRIMARY KEY,
    gone_since_ms bigint NOT NULL,
    closed boolean NOT NULL
);
INSERT INTO schema_version (version) VALUES (2);
