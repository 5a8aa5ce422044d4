-- When the wallet is filled up next, in milliseconds since 1970; a random time.
ALTER TABLE profile ADD COLUMN next_top_up_ms INTEGER NOT NULL DEFAULT 0;
-- 1: it was due while the client was away, and has been put off since.
ALTER TABLE profile ADD COLUMN top_up_put_off INTEGER NOT NULL DEFAULT 0;
