//! What a header field is to whoever forwards it. Pure.

/// What is done with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Whose the request is.
    Host,
    /// What is to become of the connection, and which fields are meant for its other end only.
    Connection,
    /// Where the message ends.
    Framing,
    /// Another protocol.
    Upgrade,
    /// A word before the body.
    Expect,
    /// For how long a connection is kept.
    KeepAlive,
    /// For the other end of the connection only.
    Hop,
    /// Who the client is, as proxies say it.
    Forwarded,
    /// Ours, and nobody else's to say.
    Own,
    /// Any other.
    Other,
}

/// Names in small letters.
const KINDS: [(&str, Field); 15] = [
    ("host", Field::Host),
    ("connection", Field::Connection),
    ("content-length", Field::Framing),
    ("transfer-encoding", Field::Framing),
    ("upgrade", Field::Upgrade),
    ("expect", Field::Expect),
    ("keep-alive", Field::KeepAlive),
    ("proxy-connection", Field::Hop),
    ("forwarded", Field::Forwarded),
    ("x-forwarded-for", Field::Forwarded),
    ("x-forwarded-host", Field::Forwarded),
    ("x-forwarded-port", Field::Forwarded),
    ("x-forwarded-proto", Field::Forwarded),
    ("x-real-ip", Field::Forwarded),
    ("x-cohortd-peer", Field::Own),
];

/// What a field of this name is.
pub(super) fn kind(name: &str) -> Field {
    let is_it = |known: &str| known.len() == name.len() && known.eq_ignore_ascii_case(name);
    KINDS.iter().find(|(known, _)| is_it(known)).map_or(Field::Other, |(_, kind)| *kind)
}

/// The words of a field that is a list.
pub(super) fn words(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

/// Whether a list has no other words than these.
pub(super) fn lists_only(value: &[u8], of: [&str; 2]) -> bool {
    words(value).all(|word| of.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes())))
}

/// Whether a list has this word.
pub(super) fn lists(value: &[u8], word: &str) -> bool {
    words(value).any(|one| one.eq_ignore_ascii_case(word.as_bytes()))
}

/// Writes a field as it is.
pub(in crate::route) fn write(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_lists_know_no_case() {
        assert_eq!(kind("X-ForWarded-for"), Field::Forwarded);
        assert_eq!(kind("Host"), Field::Host);
        assert_eq!((kind("hosts"), kind("")), (Field::Other, Field::Other));
        assert!(lists(b"keep-alive , Close", "close") && !lists(b"closed", "close"));
        assert_eq!(words(b" a,, b ,").collect::<Vec<_>>(), [b"a", b"b"]);
    }
}
