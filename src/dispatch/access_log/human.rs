//! An access line for people: words with spaces between.

use super::fields::Fields;
use super::number::push_microseconds;

/// Appends a line up to its end.
pub(super) fn begin(fields: &Fields<'_>, value: &mut String, out: &mut Vec<u8>) {
    out.extend_from_slice(&fields.timestamp);
    out.push(b' ');
    fields.push_client(out);
    out.push(b' ');
    out.extend_from_slice(fields.method().unwrap_or("-").as_bytes());
    out.push(b' ');
    push_escaped(fields.host().unwrap_or_default(), out);
    push_escaped(fields.path().as_deref().unwrap_or("-"), out);
    out.push(b' ');
    out.extend_from_slice(fields.line.status.as_str().as_bytes());
    let mut push_word = |key: &[u8], value: Option<&str>| {
        if let Some(value) = value {
            out.extend_from_slice(key);
            out.extend_from_slice(value.as_bytes());
        }
    };
    push_word(b" pool=", fields.pool());
    push_word(b" strategy=", fields.strategy());
    push_word(b" backend=", fields.backend());
    push_word(b" decision=", fields.decision());
    push_word(b" rejection=", fields.rejection());
    for name in fields.copied {
        if let Some(value) = fields.copied_value(name, value) {
            out.push(b' ');
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b"=\"");
            push_escaped(value, out);
            out.push(b'"');
        }
    }
    out.push(b' ');
    push_microseconds(fields.line.took, 0, out);
    out.extend_from_slice("µs".as_bytes());
}

/// Appends text so that what a client sent does not drive the terminal, as [`str::escape_debug`] does it.
fn push_escaped(text: &str, out: &mut Vec<u8>) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') & !matches!(byte, b'"' | b'\'' | b'\\');
    if text.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        return out.extend_from_slice(text.as_bytes());
    }
    for character in text.escape_debug() {
        out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut out = Vec::new();
        push_escaped(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_each_character_for_terminals() {
        for code in 0..0x300 {
            let text = char::from_u32(code).unwrap().to_string();
            assert_eq!(escaped(&text), text.escape_debug().to_string());
        }
    }

    proptest! {
        #[test]
        fn escapes_text_for_terminals(text in any::<String>()) {
            prop_assert_eq!(escaped(&text), text.escape_debug().to_string());
        }
    }
}
