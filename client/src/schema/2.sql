-- Several devices of one user, KeyPackages in several ciphersuites, connection tokens that change.

ALTER TABLE profile ADD COLUMN device_id BLOB;
ALTER TABLE profile ADD COLUMN device_name TEXT;
-- The group of this user's devices, once there is a second one.
ALTER TABLE profile ADD COLUMN device_group BLOB;
-- 1: sets were published that lack a package of some device; the pool is emptied with the next publication.
ALTER TABLE profile ADD COLUMN pool_stale INTEGER NOT NULL DEFAULT 0;
UPDATE profile SET device_id = randomblob(16), device_name = 'first';

-- This user's devices, this one left out. The leaf is the one in the devices' own group.
CREATE TABLE devices (
    device_id BLOB PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    leaf_index INTEGER NOT NULL UNIQUE
) STRICT;

-- Which leaf of a group is which device, as the device itself says.
CREATE TABLE device_leaves (
    device_id BLOB NOT NULL REFERENCES devices (device_id) ON DELETE CASCADE,
    -- Perhaps one that this device is not in yet.
    group_id BLOB NOT NULL,
    leaf_index INTEGER NOT NULL,
    PRIMARY KEY (device_id, group_id)
) STRICT;

-- Devices that were asked to come into a group, and when (ms): not asked again for a while.
CREATE TABLE device_invitations (
    device_id BLOB NOT NULL REFERENCES devices (device_id) ON DELETE CASCADE,
    group_id BLOB NOT NULL REFERENCES groups (group_id) ON DELETE CASCADE,
    sent_ms INTEGER NOT NULL,
    PRIMARY KEY (device_id, group_id)
) STRICT;

-- Groups that this device was asked into by another one, until it is in or has given up.
CREATE TABLE ways_in (
    group_id BLOB PRIMARY KEY,
    way BLOB NOT NULL
) STRICT;

-- Devices that another one is asked to add by a commit.
CREATE TABLE clients_to_add (
    group_id BLOB NOT NULL,
    key_package BLOB NOT NULL,
    PRIMARY KEY (group_id, key_package)
) STRICT;

-- What the other devices are to be told, in order.
CREATE TABLE sync_outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    message BLOB NOT NULL
) STRICT;

-- Groups whose other devices know which leaf is ours.
ALTER TABLE groups ADD COLUMN announced INTEGER NOT NULL DEFAULT 0;
-- Nothing is taken from the group into the queue.
ALTER TABLE groups ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;

-- A device that waits to be linked: the code that it showed.
CREATE TABLE link (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    code BLOB NOT NULL,
    seed BLOB NOT NULL,
    owner_seed BLOB NOT NULL,
    -- The sealed package, once it has come.
    package BLOB
) STRICT;

-- What is published, by ciphersuite.
CREATE TABLE key_packages (
    ciphersuite INTEGER PRIMARY KEY,
    sets_left INTEGER NOT NULL DEFAULT 0,
    last_resort_day INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO key_packages SELECT 1, key_packages_left, last_resort_day FROM profile;
ALTER TABLE profile DROP COLUMN key_packages_left;
ALTER TABLE profile DROP COLUMN last_resort_day;

-- Sets in the making: each device adds its package.
CREATE TABLE key_package_batch (
    user_pseudonym BLOB PRIMARY KEY,
    ciphersuite INTEGER NOT NULL,
    last_resort INTEGER NOT NULL,
    begun_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE batch_packages (
    user_pseudonym BLOB NOT NULL REFERENCES key_package_batch (user_pseudonym) ON DELETE CASCADE,
    device_id BLOB NOT NULL,
    key_package BLOB NOT NULL,
    PRIMARY KEY (user_pseudonym, device_id)
) STRICT;

-- Packages that another device waits for, for sets that it will publish.
CREATE TABLE wanted_packages (
    user_pseudonym BLOB PRIMARY KEY,
    ciphersuite INTEGER NOT NULL,
    last_resort INTEGER NOT NULL
) STRICT;

-- Pools under former connection tokens, until the service has deleted them.
CREATE TABLE retired_pools (
    connection_token BLOB PRIMARY KEY,
    owner_seed BLOB NOT NULL
) STRICT;
-- 1: the contact does not know the new connection token yet.
ALTER TABLE contacts ADD COLUMN token_due INTEGER NOT NULL DEFAULT 0;
