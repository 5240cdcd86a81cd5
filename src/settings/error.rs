//! What is wrong with the settings.

use std::fmt;

/// One thing that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SettingsError {
    /// The key, such as `pools.site.backends[0].weight`; empty for a file that could not be read.
    pub key: String,
    /// What is wrong and what would be right.
    pub text: String,
    /// The file, variable or flag that said so, where it is known.
    pub origin: Option<String>,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, text, origin } = self;
        match origin {
            Some(origin) if key.is_empty() => write!(f, "{origin}: {text}"),
            Some(origin) => write!(f, "{key}: {text} (from {origin})"),
            None if key.is_empty() => f.write_str(text),
            None => write!(f, "{key}: {text}"),
        }
    }
}
