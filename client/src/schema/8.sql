-- KeyPackages: counted at the service, claimed ones kept until they are used, no set of last resort.

-- When the service is asked next what it has, in milliseconds since 1970; a random time.
ALTER TABLE profile ADD COLUMN pool_due_ms INTEGER NOT NULL DEFAULT 0;
-- The last day on which sets were published because the service said that they are gone, and how often.
ALTER TABLE profile ADD COLUMN refill_day INTEGER NOT NULL DEFAULT 0;
ALTER TABLE profile ADD COLUMN refills INTEGER NOT NULL DEFAULT 0;
ALTER TABLE key_packages DROP COLUMN last_resort_day;
ALTER TABLE key_package_batch DROP COLUMN last_resort;
ALTER TABLE wanted_packages DROP COLUMN last_resort;

-- Sets of contacts that were claimed and are in no group yet.
CREATE TABLE claimed_sets (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    signature_key BLOB NOT NULL REFERENCES contacts (signature_key) ON DELETE CASCADE,
    ciphersuite INTEGER NOT NULL,
    -- As the service handed it out.
    sealed BLOB NOT NULL,
    -- Signature key of the first leaf in it.
    leaf_key BLOB NOT NULL,
    -- The group that the service was shown it for: good for that one only.
    shown_for BLOB
) STRICT;

-- Requests of the former format hold the requester's connection token; whoever wants to can ask again.
DELETE FROM incoming_requests;

-- The policy of a group that another one is put in the place of (encoded); its roles are those of the new one.
ALTER TABLE successors ADD COLUMN policy BLOB;
