//! Every statement of the engine, in one place, so that it can be held against a dialect: no
//! statement needs more than inserts with `ON CONFLICT`, `UNNEST` and row locks. Each is made for
//! each table; all tables have the same columns.

use std::sync::OnceLock;

use ds_domain::engine::Table;

/// The version of the schema, which is the first.
pub(crate) const CHECK: &str = "SELECT max(version) FROM schema_version";

/// The statements of one table.
pub(crate) struct Statements {
    /// `day, name` → the value.
    pub(crate) select: String,
    /// As `select`; the row is locked until the transaction ends.
    pub(crate) lock: String,
    /// `day, name, value`: does nothing where the row is there.
    pub(crate) insert: String,
    /// `days, names, values`.
    pub(crate) upsert: String,
    /// `days, names`.
    pub(crate) delete: String,
    /// `day, from, prefix's end or null, limit, bytes` → names and values: none before which there
    /// are that many bytes of values. A length is known without the value, which nobody reads then.
    pub(crate) range: String,
    /// `day`: deletes a batch of rows before it.
    pub(crate) expire: String,
    /// `from, end`: deletes a batch of rows.
    pub(crate) drop: String,
}

/// Rows that one statement deletes: locks are short, and what a crash leaves goes next time.
const BATCH: u32 = 5_000;

impl Statements {
    fn of(table: &str) -> Self {
        Self {
            select: format!("SELECT value FROM {table} WHERE day = $1 AND name = $2"),
            lock: format!("SELECT value FROM {table} WHERE day = $1 AND name = $2 FOR UPDATE"),
            insert: format!(
                "INSERT INTO {table} (day, name, value) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
            ),
            upsert: format!(
                "INSERT INTO {table} (day, name, value) \
                 SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) \
                 ON CONFLICT (day, name) DO UPDATE SET value = excluded.value"
            ),
            delete: format!(
                "DELETE FROM {table} WHERE (day, name) IN \
                 (SELECT * FROM unnest($1::bigint[], $2::bytea[]))"
            ),
            range: format!(
                "SELECT name, value FROM (SELECT name, value, \
                 sum(octet_length(value)) OVER (ORDER BY name) - octet_length(value) AS bytes \
                 FROM {table} WHERE day = $1 AND name >= $2 \
                 AND ($3::bytea IS NULL OR name < $3) ORDER BY name LIMIT $4) AS rows \
                 WHERE bytes < $5 ORDER BY name"
            ),
            expire: format!(
                "DELETE FROM {table} WHERE (day, name) IN \
                 (SELECT day, name FROM {table} WHERE day < $1 ORDER BY day, name LIMIT {BATCH})"
            ),
            drop: format!(
                "DELETE FROM {table} WHERE (day, name) IN (SELECT day, name FROM {table} \
                 WHERE day = 0 AND name >= $1 AND name < $2 ORDER BY day, name LIMIT {BATCH})"
            ),
        }
    }
}

/// The statements of a table.
pub(crate) fn of(table: Table) -> &'static Statements {
    static ALL: OnceLock<Vec<Statements>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        Table::ALL
            .iter()
            .map(|table| Statements::of(table.name()))
            .collect()
    });
    let at = Table::ALL.iter().position(|other| *other == table);
    static NONE: OnceLock<Statements> = OnceLock::new();
    at.and_then(|at| all.get(at))
        .unwrap_or_else(|| NONE.get_or_init(|| Statements::of("absent")))
}

/// Those that are prepared when a connection is made: what every request may need.
pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    Table::ALL.into_iter().flat_map(|table| {
        let statements = of(table);
        [
            &statements.select,
            &statements.lock,
            &statements.insert,
            &statements.upsert,
            &statements.delete,
            &statements.range,
        ]
        .map(String::as_str)
    })
}

/// Makes every table. Row names are outputs of a keyed PRF or random, values are sealed; days are
/// counted from the Unix epoch, 0 in tables without days.
pub(crate) fn schema() -> String {
    let mut schema = "CREATE TABLE schema_version (version bigint PRIMARY KEY); \
         INSERT INTO schema_version (version) VALUES (1);"
        .to_owned();
    for table in Table::ALL {
        schema.push_str(&format!(
            "CREATE TABLE {} (day bigint NOT NULL, name bytea NOT NULL, value bytea NOT NULL, \
             PRIMARY KEY (day, name));",
            table.name()
        ));
    }
    schema
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Names of tables are fixtures of the domain.
    #[test]
    fn the_schema_of_version_1_does_not_change() {
        let schema = schema();
        let mut tables = schema.split_inclusive(';');
        assert_eq!(
            (tables.next(), tables.next()),
            (
                Some("CREATE TABLE schema_version (version bigint PRIMARY KEY);"),
                Some(" INSERT INTO schema_version (version) VALUES (1);")
            )
        );
        assert_eq!(
            tables.next().unwrap(),
            "CREATE TABLE groups (day bigint NOT NULL, name bytea NOT NULL, value bytea NOT NULL, \
             PRIMARY KEY (day, name));"
        );
        assert_eq!(tables.count(), Table::ALL.len() - 1);
    }
}
