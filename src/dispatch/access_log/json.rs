//! An access line as one JSON object.

use super::fields::Fields;
use super::number::push_microseconds;

/// Appends a line up to the brace that closes the object.
pub(super) fn begin(fields: &Fields<'_>, value: &mut String, out: &mut Vec<u8>) {
    let line = fields.line;
    out.extend_from_slice(b"{\"timestamp\":\"");
    out.extend_from_slice(&fields.timestamp);
    out.extend_from_slice(b"\",\"target\":\"access\"");
    let path = fields.path();
    push_field(b",\"method\":", fields.method(), out);
    push_field(b",\"host\":", fields.host(), out);
    push_field(b",\"path\":", path.as_deref(), out);
    out.extend_from_slice(b",\"status\":");
    out.extend_from_slice(line.status.as_str().as_bytes());
    push_name(b",\"pool\":", fields.pool(), out);
    push_name(b",\"strategy\":", fields.strategy(), out);
    push_name(b",\"backend\":", fields.backend(), out);
    push_name(b",\"decision\":", fields.decision(), out);
    push_name(b",\"rejection\":", fields.rejection(), out);
    out.extend_from_slice(b",\"client\":\"");
    fields.push_client(out);
    out.push(b'"');
    for (index, name) in fields.copied.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b",\"headers\":{" } else { b"," });
        out.push(b'"');
        out.extend_from_slice(name.as_str().as_bytes());
        push_field(b"\":", fields.copied_value(name, value), out);
    }
    if !fields.copied.is_empty() {
        out.push(b'}');
    }
    out.extend_from_slice(b",\"duration_us\":");
    push_microseconds(line.took, 1, out);
}

/// Appends a key, and a name that needs no escape or `null`: names of ours, and those that settings restrict to such.
fn push_name(key: &[u8], name: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    match name {
        Some(name) => {
            out.push(b'"');
            out.extend_from_slice(name.as_bytes());
            out.push(b'"');
        }
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends a key, and a string that the client sent or `null`.
fn push_field(key: &[u8], value: Option<&str>, out: &mut Vec<u8>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => push_string(value, out),
        None => out.extend_from_slice(b"null"),
    }
}

/// Appends a string with quotes, escaped as `serde_json` does it (RFC 8259 §7).
fn push_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    // Most strings need no escape. This loop has no exit, so that the compiler makes it one over 16 bytes at a time.
    if rest.iter().fold(false, |found, &byte| found | needs_escape(byte)) {
        while let Some(at) = rest.iter().position(|&byte| needs_escape(byte)) {
            out.extend_from_slice(&rest[..at]);
            push_escaped(rest[at], out);
            rest = &rest[at + 1..];
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

const fn needs_escape(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\')
}

fn push_escaped(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        b'\t' => b't',
        b'\n' => b'n',
        0x0c => b'f',
        b'\r' => b'r',
        _ => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let [high, low] = [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
            return out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn string(text: &str) -> String {
        let mut out = Vec::new();
        push_string(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escapes_each_character_as_serde_json_does() {
        for code in 0..0x300 {
            let text = char::from_u32(code).unwrap().to_string();
            assert_eq!(string(&text), serde_json::to_string(&text).unwrap());
        }
    }

    proptest! {
        #[test]
        fn escapes_strings_as_serde_json_does(text in any::<String>()) {
            prop_assert_eq!(string(&text), serde_json::to_string(&text).unwrap());
        }
    }
}
