//! Every statement of the engine, in one place, so that it can be held against a dialect: no
//! statement needs more than inserts with `ON CONFLICT`, `UNNEST`, `= ANY`, `RETURNING` and row locks.

macro_rules! statements {
    ($($(#[$about:meta])* $name:ident = $sql:expr;)*) => {
        $($(#[$about])* pub(super) const $name: &str = $sql;)*
        /// Prepared when a connection is made.
        pub(super) const ALL: &[&str] = &[$($name),*];
    };
}

/// Deletes at most one batch of a table's rows before a day. The day is asked for again outside: the
/// row may have been replaced since it was chosen.
macro_rules! expire {
    ($table:literal, $day:literal, $key:literal) => {
        concat!(
            "DELETE FROM ",
            $table,
            " WHERE ",
            $day,
            " < $1 AND (",
            $key,
            ") IN (SELECT ",
            $key,
            " FROM ",
            $table,
            " WHERE ",
            $day,
            " < $1 ORDER BY ",
            $key,
            " LIMIT 5000)"
        )
    };
}

statements! {
    CHECK = "SELECT max(version) FROM schema_version";

    // Notes.
    NOTE = "SELECT value FROM notes WHERE name = $1";
    WRITE_NOTE = "INSERT INTO notes (name, value) VALUES ($1, $2) \
        ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    FIRST_NOTE = "INSERT INTO notes (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    NEXT_NOTE = "UPDATE notes SET value = $3 WHERE name = $1 AND value = $2";

    // Receipts.
    RECORD_RESULT = "INSERT INTO results (day, id, sealed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";
    RESULT = "SELECT sealed FROM results WHERE day = $1 AND id = $2";
    SPEND = "INSERT INTO spent (issuer_key_id, id) \
        SELECT * FROM unnest($1::bytea[], $2::bytea[]) ON CONFLICT DO NOTHING";
    IS_SPENT = "SELECT id FROM spent WHERE issuer_key_id = $1 AND id = $2 \
        UNION ALL SELECT id FROM issuer_keys WHERE id = $1 AND closed";
    CLOSED = "SELECT id FROM issuer_keys WHERE id = ANY($1) AND closed";
    /// From one to the next: all of them at once would cost a look at every token.
    NEXT_ISSUER_KEY = "SELECT issuer_key_id FROM spent WHERE issuer_key_id > $1 \
        ORDER BY issuer_key_id LIMIT 1";

    // Groups.
    RESERVE = "INSERT INTO reservations (id, day, owner_tag) VALUES ($1, $2, $3) \
        ON CONFLICT (id) DO UPDATE SET day = excluded.day, owner_tag = excluded.owner_tag \
        WHERE reservations.day < excluded.day - 1 OR reservations.day > excluded.day + 1";
    CONSUME_RESERVATION = "DELETE FROM reservations WHERE id = $1 AND owner_tag = $2 AND day = ANY($3)";
    CREATE_GROUP = "INSERT INTO groups (id, version, roster, tree, key_check) \
        VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
    RESERVATION = "SELECT owner_tag FROM reservations WHERE id = $1 AND day = $2";
    /// Short, so it stands in the row itself, whatever the size of the others.
    KEY_CHECK = "SELECT key_check FROM groups WHERE id = $1 AND version IS NOT NULL";
    /// A column that is not asked for is not read.
    GROUP = "SELECT version, roster, CASE WHEN $2 THEN tree END, CASE WHEN $3 THEN proposals END \
        FROM groups WHERE id = $1 AND version IS NOT NULL";
    /// Or its tombstone.
    GROUP_IS_THERE = "SELECT id FROM groups WHERE id = $1";
    /// Shared: messages go on side by side; a change of the version waits until those that saw the
    /// old one are committed, and whoever comes behind it reads the new one.
    HOLD_VERSION =
        "SELECT version FROM groups WHERE id = $1 AND version IS NOT NULL FOR SHARE";
    /// A large value that is assigned to itself is not written again.
    ADVANCE = "UPDATE groups SET version = $3, roster = $4, tree = coalesce($5, tree), \
        proposals = CASE WHEN $6 THEN $7 ELSE proposals END, key_check = $8 \
        WHERE id = $1 AND version = $2";
    DELETE_GROUP = "UPDATE groups SET version = NULL, roster = NULL, tree = NULL, \
        proposals = NULL, key_check = NULL WHERE id = $1 AND version = $2";
    JOIN_RECORD = "SELECT sealed FROM join_records WHERE day = $1 AND id = $2";
    PUT_JOIN_RECORD = "INSERT INTO join_records (day, id, sealed) VALUES ($1, $2, $3) \
        ON CONFLICT (day, id) DO UPDATE SET sealed = excluded.sealed";
    DROP_JOIN_RECORDS = "DELETE FROM join_records WHERE day = $1 AND id = ANY($2)";
    RECOVERY_RECORD = "SELECT sealed FROM recovery WHERE id = $1";
    DROP_RECOVERY_RECORDS = "DELETE FROM recovery WHERE id = ANY($1)";
    PUT_RECOVERY_RECORDS = "INSERT INTO recovery (id, sealed) \
        SELECT * FROM unnest($1::bytea[], $2::bytea[]) \
        ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed";

    // Queues.
    ADD_PAYLOADS = "INSERT INTO payloads (day, id, refs, sealed) \
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bytea[])";
    ADD_ENTRIES = "INSERT INTO entries (day, id, sealed) \
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])";
    ADD_BLOCKS = "INSERT INTO blocks (day, id, copy) \
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[])";
    CREATE_QUEUE = "INSERT INTO queues (id, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    QUEUE = "SELECT sealed FROM queues WHERE id = $1";
    QUEUES = "SELECT id, sealed FROM queues WHERE id = ANY($1)";
    REPLACE_QUEUE = "UPDATE queues SET sealed = $3 WHERE id = $1 AND sealed = $2";
    DELETE_QUEUE = "DELETE FROM queues WHERE id = $1 AND sealed = $2";
    REGISTER_INCARNATION =
        "INSERT INTO incarnations (day, id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    INCARNATIONS = "SELECT day, id FROM incarnations ORDER BY day, id";
    BLOCKS = "SELECT id FROM blocks WHERE day = $1 AND id = ANY($2)";
    ENTRIES = "SELECT id, sealed FROM entries WHERE day = $1 AND id = ANY($2)";
    PAYLOADS = "SELECT id, sealed FROM payloads WHERE day = $1 AND id = ANY($2)";
    TAKE_ENTRIES = "DELETE FROM entries WHERE day = $1 AND id = ANY($2) RETURNING id";
    RELEASE = "INSERT INTO released (day, id, copy, refs) \
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[])";
    DROP_UNREFERENCED = "DELETE FROM payloads WHERE day = $1 AND id = ANY($2) AND refs <= \
        (SELECT coalesce(sum(r.refs), 0) FROM released r \
        WHERE r.day = payloads.day AND r.id = payloads.id)";
    FORGET_RELEASED = "DELETE FROM released WHERE day = $1 AND id = ANY($2) AND NOT EXISTS \
        (SELECT 1 FROM payloads p WHERE p.day = released.day AND p.id = released.id)";

    // KeyPackages and handles.
    /// Makes it or holds it, in one: it may be deleted between two statements.
    OWN_POOL = "INSERT INTO pools (id, owner_tag) VALUES ($1, $2) \
        ON CONFLICT (id) DO UPDATE SET owner_tag = excluded.owner_tag \
        WHERE pools.owner_tag = excluded.owner_tag";
    HOLD_POOL = "SELECT owner_tag FROM pools WHERE id = $1 FOR UPDATE";
    POOL = "SELECT owner_tag FROM pools WHERE id = $1";
    COUNTED_SETS = "SELECT ciphersuite, expiry_day FROM key_packages \
        WHERE pool = $1 AND expiry_day >= $2 ORDER BY ciphersuite, expiry_day, id LIMIT $3";
    COUNTED_LAST_RESORT = "SELECT ciphersuite, expiry_day FROM last_resort \
        WHERE pool = $1 AND expiry_day >= $2 ORDER BY ciphersuite";
    ADD_SETS = "INSERT INTO key_packages (pool, ciphersuite, expiry_day, id, sealed) \
        SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[])";
    PUT_LAST_RESORT = "INSERT INTO last_resort (pool, ciphersuite, expiry_day, sealed) \
        VALUES ($1, $2, $3, $4) ON CONFLICT (pool, ciphersuite) \
        DO UPDATE SET expiry_day = excluded.expiry_day, sealed = excluded.sealed";
    CANDIDATES = "SELECT expiry_day, id FROM key_packages \
        WHERE pool = $1 AND ciphersuite = $2 AND expiry_day >= $3 \
        ORDER BY expiry_day, id LIMIT $4";
    SET = "SELECT sealed FROM key_packages \
        WHERE pool = $1 AND ciphersuite = $2 AND expiry_day = $3 AND id = $4";
    LAST_RESORT = "SELECT sealed FROM last_resort \
        WHERE pool = $1 AND ciphersuite = $2 AND expiry_day >= $3";
    TAKE_SET = "DELETE FROM key_packages \
        WHERE pool = $1 AND ciphersuite = $2 AND expiry_day = $3 AND id = $4";
    DELETE_POOL = "DELETE FROM pools WHERE id = $1";
    /// In the order in which claims take them.
    HOLD_SETS = "SELECT id FROM key_packages WHERE pool = $1 \
        ORDER BY ciphersuite, expiry_day, id FOR UPDATE";
    DELETE_SETS = "DELETE FROM key_packages WHERE pool = $1";
    DELETE_LAST_RESORT = "DELETE FROM last_resort WHERE pool = $1";
    PUT_HANDLE = "INSERT INTO handles (id, owner_tag, sealed) VALUES ($1, $2, $3) \
        ON CONFLICT (id) DO UPDATE SET sealed = excluded.sealed \
        WHERE handles.owner_tag = excluded.owner_tag";
    HANDLE = "SELECT sealed FROM handles WHERE id = $1";
    HOLD_HANDLE = "SELECT owner_tag FROM handles WHERE id = $1 FOR UPDATE";
    DELETE_HANDLE = "DELETE FROM handles WHERE id = $1";

    // The end of days.
    EXPIRE_ENTRIES = expire!("entries", "day", "day, id");
    EXPIRE_BLOCKS = expire!("blocks", "day", "day, id, copy");
    EXPIRE_PAYLOADS = expire!("payloads", "day", "day, id");
    EXPIRE_RELEASED = expire!("released", "day", "day, id, copy");
    EXPIRE_INCARNATIONS = expire!("incarnations", "day", "day, id");
    EXPIRE_RESULTS = expire!("results", "day", "day, id");
    EXPIRE_JOIN_RECORDS = expire!("join_records", "day", "day, id");
    EXPIRE_RESERVATIONS = expire!("reservations", "day", "id");
    EXPIRE_SETS = expire!("key_packages", "expiry_day", "pool, ciphersuite, expiry_day, id");
    EXPIRE_LAST_RESORT = expire!("last_resort", "expiry_day", "pool, ciphersuite");
    RETIRE_ISSUER_KEY = "INSERT INTO issuer_keys (id, gone_since_ms, closed) VALUES ($1, $2, false) \
        ON CONFLICT DO NOTHING";
    READMIT_ISSUER_KEY = "DELETE FROM issuer_keys WHERE id = $1 AND NOT closed";
    RETIRED_ISSUER_KEYS = "SELECT id, gone_since_ms, closed FROM issuer_keys";
    CLOSE_ISSUER_KEY = "INSERT INTO issuer_keys (id, gone_since_ms, closed) VALUES ($1, 0, true) \
        ON CONFLICT (id) DO UPDATE SET closed = true";
    DROP_SPENT = "DELETE FROM spent WHERE (issuer_key_id, id) IN \
        (SELECT issuer_key_id, id FROM spent WHERE issuer_key_id = $1 LIMIT 5000)";
}
