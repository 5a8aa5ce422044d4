//! Who is asked what the keys of the gateway are.

/// Whose answer to the question what the gateway's key configurations are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyView {
    /// A mirror that is reached without the relay.
    Mirror,
    /// The gateway itself, asked through the relay under the key that the relay showed.
    Gateway,
}

impl std::fmt::Display for KeyView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mirror => "an independent mirror",
            Self::Gateway => "the gateway itself",
        })
    }
}
