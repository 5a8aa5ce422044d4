-- Tokens that were asked for and have not come: the very request, so that asking again is the same request, and what
-- makes tokens out of its answer. At most one row.
CREATE TABLE token_batch (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- 1: a generic batch, 0: a single request.
    generic INTEGER NOT NULL,
    -- The issuer's key (SPKI) and the digest of the challenge.
    token_key BLOB NOT NULL,
    challenge_digest BLOB NOT NULL,
    request BLOB NOT NULL,
    -- Of each token: its input (RFC 9578 §6.1) and the inverse of its blinding factor.
    blinding BLOB NOT NULL
) STRICT;

-- When a token was spent last, in milliseconds since 1970.
ALTER TABLE profile ADD COLUMN last_spent_ms INTEGER NOT NULL DEFAULT 0;
-- 1: the next filling has been brought forward already.
ALTER TABLE profile ADD COLUMN top_up_hastened INTEGER NOT NULL DEFAULT 0;
