-- Reporting of abuse (docs/abuse.md): the issuer's keys, the own certificate, what others signed for this user.

-- The issuer's directory, fetched once a day.
CREATE TABLE certificate_keys (
    public_key BLOB PRIMARY KEY
) STRICT;

CREATE TABLE reporting (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- 1: the issuer asks clients to take no request without a certificate.
    required INTEGER NOT NULL DEFAULT 0,
    -- When the issuer is asked again: some time of the day, not after anything that the user does.
    due_ms INTEGER NOT NULL DEFAULT 0,
    -- The certificate over the identity key, its salt, and the day that it came.
    certificate BLOB,
    salt BLOB,
    certificate_day INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO reporting (id) VALUES (1);

-- The last introduction of everybody who made one, verified; kept while it can be reported.
CREATE TABLE introductions (
    signature_key BLOB PRIMARY KEY,
    name TEXT NOT NULL,
    introduction BLOB NOT NULL,
    not_after_day INTEGER NOT NULL,
    reported INTEGER NOT NULL DEFAULT 0
) STRICT;

-- When the wallet is filled up next, in milliseconds since 1970; a random time.
ALTER TABLE profile ADD COLUMN next_top_up_ms INTEGER NOT NULL DEFAULT 0;
-- 1: it was due while the client was away, and has been put off since.
ALTER TABLE profile ADD COLUMN top_up_put_off INTEGER NOT NULL DEFAULT 0;
