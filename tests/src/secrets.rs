//! Everything in a client's home that nobody else may have.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use protocol::Wire as _;
use protocol::reporting::{ReportingCertificate, SignedIntroduction};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// Columns of the client's database by table, with what they hold.
const COLUMNS: &[&str] = &[
    "SELECT account_token FROM profile",
    "SELECT identity_seed, establishment_seed, handle_owner_seed FROM profile",
    "SELECT connection_key, inbox_id, inbox_owner_seed FROM profile",
    "SELECT device_id, device_group FROM profile",
    "SELECT token, substr(token, 3, 32) FROM tokens",
    "SELECT signature_key, connection_key, connection_token FROM contacts",
    "SELECT pool_token, pool_owner_seed FROM contacts",
    "SELECT group_id, recovery_seed FROM groups",
    "SELECT segment_id, state_key, journal_key, tag_key, wrapper_key FROM segments",
    "SELECT wrapper_key FROM wrappers",
    "SELECT pointer FROM pointers",
    "SELECT pointer FROM invitations",
    "SELECT credential, user_pseudonym, signature_key, link_key FROM identities",
    // The public halves stand in every KeyPackage and leaf.
    "SELECT public_key, seed FROM leaf_keys",
    "SELECT certificate, salt FROM reporting WHERE certificate IS NOT NULL",
    "SELECT introduction FROM introductions",
    "SELECT capability, content_key, write_key FROM uploads",
    "SELECT request, tokens FROM pending_requests WHERE length(tokens) > 0",
];

/// Reads them all; the client may be running.
#[must_use]
pub fn secrets_of(home: &Path) -> Vec<Vec<u8>> {
    let path = home.join("client.sqlite");
    let database =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
    let mut secrets = Vec::new();
    for query in COLUMNS {
        let mut statement = database.prepare(query).expect("a query");
        let columns = statement.column_count();
        let mut rows = statement.query(()).expect("rows");
        while let Some(row) = rows.next().expect("a row") {
            for column in 0..columns {
                match row.get_ref(column).expect("a column") {
                    ValueRef::Blob(bytes) | ValueRef::Text(bytes) => secrets.push(bytes.to_vec()),
                    _ => {}
                }
            }
        }
    }
    // What chance would find is no needle; a pseudonym or key never is as short.
    secrets.retain(|secret| secret.len() >= 16);
    secrets.sort_unstable();
    secrets.dedup();
    secrets
}

/// What a client has of certificates, its own and others': each certificate's commitment, account
/// handle, signature and salt, and what was signed with it.
#[must_use]
pub fn reporting_secrets_of(home: &Path) -> Vec<Vec<u8>> {
    let path = home.join("client.sqlite");
    let database =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
    let mut secrets = Vec::new();
    let (certificate, salt): (Vec<u8>, Vec<u8>) = database
        .query_row("SELECT certificate, salt FROM reporting", (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .expect("a certificate");
    let own = ReportingCertificate::decode(&certificate).expect("a certificate");
    secrets.extend(parts(&own));
    secrets.extend([salt, certificate.clone(), own.to_be_signed()]);
    let mut statement = database
        .prepare("SELECT introduction FROM introductions")
        .expect("a query");
    let rows = statement
        .query_map((), |row| row.get::<_, Vec<u8>>(0))
        .expect("rows");
    for row in rows {
        let signed = SignedIntroduction::decode(&row.expect("a row")).expect("an introduction");
        let introduction = &signed.introduction;
        secrets.extend(parts(&introduction.certificate));
        secrets.extend([
            introduction.salt.to_vec(),
            introduction.encode(),
            signed.signature.to_vec(),
        ]);
    }
    secrets
}

fn parts(certificate: &ReportingCertificate) -> [Vec<u8>; 3] {
    [
        certificate.commitment.to_vec(),
        certificate.account_handle.to_vec(),
        certificate.signature.to_vec(),
    ]
}

/// The account that a token is for: the `sub` of its payload.
#[must_use]
pub fn account_of(token: &Path) -> String {
    let token = std::fs::read_to_string(token).expect("an account token");
    let payload = token.split('.').nth(1).expect("a JWT");
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("a JWT");
    let claims: serde_json::Value = serde_json::from_slice(&payload).expect("a JWT");
    claims["sub"].as_str().expect("an account").to_owned()
}
