//! Headings of documents.

/// The anchor that a heading has on the usual hosts.
pub(crate) fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|it| match it {
            ' ' => Some('-'),
            '-' | '_' => Some(it),
            _ if it.is_alphanumeric() => Some(it.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}
