-- 1: this device is being removed by us. What was cut off is gone on with.
ALTER TABLE devices ADD COLUMN going INTEGER NOT NULL DEFAULT 0;
-- What a removed device still knows and has to be made worthless: 1 the connection token, 2 the handle's keys.
ALTER TABLE profile ADD COLUMN keys_due INTEGER NOT NULL DEFAULT 0;
