-- What independent views of keys and directory agreed on, and when they are compared next (JSON).
ALTER TABLE profile ADD COLUMN views TEXT;
-- The directory as relay and service showed it when the service's own sender key in a group was in question (JSON).
ALTER TABLE profile ADD COLUMN directory_heard TEXT;
ALTER TABLE profile DROP COLUMN directory_fetched_ms;
