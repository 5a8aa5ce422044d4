-- Groups that this device has asked its user's other devices to add it to, and the signature key of the leaf that it has
-- made for that, once for each device that let it ask. Nobody else adds it in this user's name.
CREATE TABLE asked_in (
    group_id BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    PRIMARY KEY (group_id, leaf_key)
) STRICT;
