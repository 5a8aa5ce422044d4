//! What is done to which file, and the words that the refusal must have.

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
pub(super) enum Blow {
    Gone,
    /// One bit, at this part of the file in hundredths.
    Flipped(usize),
    /// Cut off at this part.
    Cut(usize),
    /// That of another store.
    Swapped,
}

/// Which file: in `data` or in `keys`, by the beginning and end of its name, the last one of those.
pub(super) type Target = (&'static str, &'static str, &'static str);

/// Words that the refusal must have, beside the file's name.
pub(super) type Words = &'static [&'static str];

pub(super) const ROCKSDB: &[(Target, Blow, Words)] = &[
    (
        ("data", "CURRENT", ""),
        Blow::Gone,
        &["is missing", "backup"],
    ),
    (
        ("data", "CURRENT", ""),
        Blow::Cut(50),
        &["damaged", "backup"],
    ),
    (
        ("data", "MANIFEST-", ""),
        Blow::Gone,
        &["damaged", "backup"],
    ),
    (
        ("data", "MANIFEST-", ""),
        Blow::Flipped(50),
        &["damaged", "backup"],
    ),
    (("data", "MANIFEST-", ""), Blow::Cut(50), &["backup"]),
    (("data", "", ".sst"), Blow::Gone, &["damaged", "backup"]),
    (("data", "", ".sst"), Blow::Cut(50), &["damaged", "backup"]),
    (("data", "", ".sst"), Blow::Cut(0), &["damaged", "backup"]),
    (("data", "", ".log"), Blow::Gone, &["backup"]),
    (
        ("data", "", ".log"),
        Blow::Cut(0),
        &["acknowledged", "backup"],
    ),
    (
        ("data", "", ".log"),
        Blow::Cut(50),
        &["acknowledged", "backup"],
    ),
    (
        ("data", "", ".log"),
        Blow::Flipped(0),
        &["damaged", "backup"],
    ),
    (
        ("data", "", ".log"),
        Blow::Flipped(50),
        &["damaged", "backup"],
    ),
    (
        ("data", "", ".log"),
        Blow::Flipped(99),
        &["damaged", "backup"],
    ),
    (
        ("data", "", ".log"),
        Blow::Swapped,
        &["acknowledged", "backup"],
    ),
    (
        ("data", "ACKNOWLEDGED", ""),
        Blow::Gone,
        &["is missing", "backup"],
    ),
    (
        ("data", "ACKNOWLEDGED", ""),
        Blow::Cut(0),
        &["damaged", "backup"],
    ),
];

pub(super) const KEY_FILES_OF_DS: &[(Target, Blow, Words)] = &[
    (
        ("keys", "service-keys", ""),
        Blow::Gone,
        &["does not exist", "backup"],
    ),
    (
        ("keys", "service-keys", ""),
        Blow::Flipped(0),
        &["damaged", "backup"],
    ),
    (
        ("keys", "service-keys", ""),
        Blow::Flipped(60),
        &["damaged", "backup"],
    ),
    (
        ("keys", "service-keys", ""),
        Blow::Swapped,
        &["is not the one", "use that one"],
    ),
    (
        ("keys", "gateway-secret", ""),
        Blow::Gone,
        &["cannot be read"],
    ),
    (
        ("keys", "gateway-secret", ""),
        Blow::Flipped(40),
        &["damaged", "backup"],
    ),
];

pub(super) const KEY_FILES_OF_THE_ISSUER: &[(Target, Blow, Words)] = &[
    (
        ("keys", "account-hash.key", ""),
        Blow::Gone,
        &["does not exist", "backup"],
    ),
    (
        ("keys", "account-hash.key", ""),
        Blow::Flipped(10),
        &["damaged", "backup"],
    ),
    (
        ("keys", "account-hash.key", ""),
        Blow::Swapped,
        &["is not the one", "use that one"],
    ),
    (
        ("keys", "reports.key", ""),
        Blow::Gone,
        &["does not exist", "backup"],
    ),
    (
        ("keys", "reports.key", ""),
        Blow::Flipped(90),
        &["damaged", "backup"],
    ),
    (
        ("keys", "reports.key", ""),
        Blow::Swapped,
        &["is not the one", "use that one"],
    ),
    (
        ("keys", "token-", ".pk8"),
        Blow::Gone,
        &["does not exist", "backup"],
    ),
    (
        ("keys", "token-", ".pk8"),
        Blow::Flipped(30),
        &["not a 2048-bit RSA key"],
    ),
    (
        ("keys", "token-", ".pk8"),
        Blow::Cut(50),
        &["not a 2048-bit RSA key"],
    ),
    (
        ("keys", "token-", ".pk8"),
        Blow::Swapped,
        &["is none of those", "backup"],
    ),
    (
        ("keys", "token-", ".pk8.bound"),
        Blow::Gone,
        &["is none of those", "backup"],
    ),
    (
        ("keys", "token-", ".pk8.bound"),
        Blow::Swapped,
        &["is none of those", "backup"],
    ),
    (
        ("keys", "certificate-", ".key"),
        Blow::Swapped,
        &["is none of those", "backup"],
    ),
    (
        ("keys", "certificate-", ".key.bound"),
        Blow::Cut(50),
        &["is none of those", "backup"],
    ),
    (
        ("keys", "certificate-", ".key"),
        Blow::Gone,
        &["does not exist", "backup"],
    ),
    (
        ("keys", "certificate-", ".key"),
        Blow::Flipped(50),
        &["damaged", "backup"],
    ),
];

pub(super) const KEY_DIRECTORY_OF_THE_GATEWAY: &[(Target, Blow, Words)] = &[
    (
        ("data", "founded", ""),
        Blow::Gone,
        &["is missing", "backup"],
    ),
    (
        ("data", "founded", ""),
        Blow::Flipped(50),
        &["damaged", "backup"],
    ),
    (
        ("data", "keys-", ""),
        Blow::Gone,
        &["does not exist", "backup"],
    ),
    (
        ("data", "keys-", ""),
        Blow::Flipped(5),
        &["damaged", "backup"],
    ),
    (
        ("data", "keys-", ""),
        Blow::Flipped(70),
        &["damaged", "backup"],
    ),
    (
        ("keys", "gateway-secret", ""),
        Blow::Gone,
        &["cannot be read"],
    ),
    (
        ("keys", "gateway-secret", ""),
        Blow::Flipped(40),
        &["damaged", "backup"],
    ),
];
