//! What is wrong with a configuration: file, line, column, the line itself, and what to do.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration that can't be used. Its `Display` is meant for people and ends without a
/// newline; programs exit with 78 (EX_CONFIG) on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    file: PathBuf,
    place: Option<Place>,
    message: String,
}

/// A place in the file, counted from 1; columns are characters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    /// The line itself, and how many characters of it are wrong.
    shown: Option<(String, usize)>,
}

impl ConfigError {
    /// An error of the file as a whole.
    pub(crate) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        ConfigError { file: file.to_owned(), place: None, message: message.into() }
    }

    /// An error at a byte range of the file's text.
    pub(crate) fn at(
        file: &Path,
        source: &str,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let start = source.floor_char_boundary(span.start);
        let from = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let text = source[from..].lines().next().unwrap_or("");
        let end =
            source.floor_char_boundary(span.end).clamp(start, from + text.len().max(start - from));
        let place = Place {
            line: source[..start].matches('\n').count() + 1,
            column: source[from..start].chars().count() + 1,
            shown: Some((text.to_owned(), source[start..end].chars().count().max(1))),
        };
        ConfigError { file: file.to_owned(), place: Some(place), message: message.into() }
    }

    /// An error at a place in a file whose text is not for everybody who reads the error.
    pub(crate) fn of_secret(
        file: &Path,
        line: usize,
        column: usize,
        message: impl Into<String>,
    ) -> Self {
        let place = Place { line, column, shown: None };
        ConfigError { file: file.to_owned(), place: Some(place), message: message.into() }
    }

    /// The TOML library's error, with the nearest known key where a key is unknown.
    pub(crate) fn of_toml(file: &Path, source: &str, error: &toml::de::Error) -> Self {
        let message = unknown_key(error.message())
            .or_else(|| unquoted(error.message()))
            .unwrap_or_else(|| error.message().to_owned());
        match error.span() {
            Some(span) => ConfigError::at(file, source, span, message),
            None => ConfigError::of_file(file, message),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        let Some(Place { line, column, shown }) = &self.place else {
            return write!(f, ": {}", self.message);
        };
        write!(f, ":{line}:{column}: {}", self.message)?;
        let Some((text, width)) = shown else { return Ok(()) };
        let margin = " ".repeat(line.to_string().len());
        let indent = " ".repeat(column - 1);
        let mark = "^".repeat(*width);
        write!(f, "\n{margin} |\n{line} | {text}\n{margin} | {indent}{mark}")
    }
}

impl std::error::Error for ConfigError {}

/// serde's "unknown field `x`, expected one of `a`, `b`", said for people.
fn unknown_key(message: &str) -> Option<String> {
    let mut names = message.strip_prefix("unknown field `")?.split('`').step_by(2);
    let key = names.next()?;
    let known: Vec<&str> = names.collect();
    Some(match nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key `{key}`; did you mean `{near}`?"),
        None => format!("unknown key `{key}`; known here: {}", known.join(", ")),
    })
}

/// serde's "invalid type: integer `8080`, expected a string", said for people.
fn unquoted(message: &str) -> Option<String> {
    let (_, found) = message.strip_suffix("`, expected a string")?.split_once('`')?;
    Some(format!("expected a string, found {found}: write \"{found}\""))
}

/// The name most like `wrong`, if any is close enough to be what was meant.
pub(crate) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(3) / 3)
        .min()
        .map(|(_, name)| name)
}
