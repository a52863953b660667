//! `env_file`: variables in files, a line each, as systemd's `EnvironmentFile=` and `.env` files have
//! them in common.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

use super::check::{Check, Checked};
use super::env::RESERVED;
use super::error::ConfigError;
use super::file::Files;

/// A file with variables, as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// A relative path begins in `directory`.
    path: Spanned<PathBuf>,
    /// It need not be there.
    optional: bool,
}

impl EnvFile {
    /// Where it is, in an app with this directory.
    pub fn path(&self, directory: &Path) -> PathBuf {
        directory.join(self.path.as_ref())
    }

    /// Reads its variables. `bad` makes an error of the place where the configuration names it.
    pub(super) fn load(
        &self,
        directory: &Path,
        bad: impl Fn(Range<usize>, String) -> ConfigError,
    ) -> Result<BTreeMap<String, String>, ConfigError> {
        let path = self.path(directory);
        match fs::read_to_string(&path) {
            Ok(text) => parse(&text).map_err(|Mistake { line, column, message }| {
                ConfigError::of_secret(&path, line, column, message)
            }),
            Err(error) if self.optional && error.kind() == io::ErrorKind::NotFound => {
                Ok(BTreeMap::new())
            }
            Err(error) => {
                Err(bad(self.path.span(), format!("{} can't be read: {error}", path.display())))
            }
        }
    }
}

impl Check<'_> {
    pub(super) fn env_files(&self, raw: &Option<Spanned<Files>>) -> Checked<Vec<EnvFile>> {
        let Some(raw) = raw else { return Ok(Vec::new()) };
        let paths = match raw.as_ref() {
            Files::One(path) => std::slice::from_ref(path),
            Files::Several(paths) => paths,
        };
        let one = |text: &String| {
            let path = text.strip_prefix('-').unwrap_or(text);
            if path.is_empty() || path.contains('\0') {
                let message = "expected a file, such as \"/etc/myapp.env\", or \"-/etc/myapp.env\" for one that \
                               need not be there";
                return self.error(raw.span(), message);
            }
            let optional = path != text;
            Ok(EnvFile { path: Spanned::new(raw.span(), path.into()), optional })
        };
        paths.iter().map(one).collect()
    }
}

/// What is wrong, and where. The line itself is not shown: it may be a secret.
#[derive(Debug, PartialEq, Eq)]
struct Mistake {
    line: usize,
    column: usize,
    message: String,
}

/// The variables of a file's text. Of two by one name the later counts.
fn parse(text: &str) -> Result<BTreeMap<String, String>, Mistake> {
    let mut variables = BTreeMap::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut rest = text;
    while !rest.is_empty() {
        let line = rest.split('\n').next().unwrap_or_default();
        let code = line.trim();
        if code.is_empty() || code.starts_with(['#', ';']) {
            rest = rest.get(line.len() + 1..).unwrap_or_default();
            continue;
        }
        let begin = text.len() - rest.len() + (line.len() - line.trim_start().len());
        let mistake = |at: usize, message: &str| {
            let before = &text[..at];
            let from = before.rfind('\n').map_or(0, |newline| newline + 1);
            Mistake {
                line: before.matches('\n').count() + 1,
                column: before[from..].chars().count() + 1,
                message: message.to_owned(),
            }
        };
        let assignment = code.strip_prefix("export ").map_or(code, str::trim_start);
        let Some((name, _)) = assignment.split_once('=') else {
            return Err(mistake(begin, "expected NAME=value"));
        };
        let at = begin + (code.len() - assignment.len());
        let name = name.trim_end();
        if !is_name(name) {
            let message = "a name is letters, digits, _, - and ., and begins with no digit";
            return Err(mistake(at, message));
        }
        if RESERVED.contains(&name) {
            return Err(mistake(at, &format!("{name} is set by cohortd for each worker")));
        }
        let after = &text[at..];
        let equals = at + after.find('=').unwrap_or_default();
        let (value, end) = value(text, equals + 1).map_err(|(at, what)| mistake(at, what))?;
        if value.contains('\0') {
            return Err(mistake(equals + 1, "a value can't contain NUL"));
        }
        variables.insert(name.to_owned(), value);
        rest = &text[end..];
    }
    Ok(variables)
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// The value that begins here, and where the next line does; or what is wrong, and where.
fn value(text: &str, from: usize) -> Result<(String, usize), (usize, &'static str)> {
    let blank = |c: char| c.is_whitespace() && c != '\n';
    let start = text.len() - text[from..].trim_start_matches(blank).len();
    let end_of_line = |at: usize| text[at..].find('\n').map_or(text.len(), |n| at + n);
    let quote = match text[start..].chars().next() {
        Some(quote @ ('"' | '\'')) => quote,
        _ => {
            let end = end_of_line(start);
            let line = &text[start..end];
            // A # inside a word is a part of it, as in a URL.
            let comment = line.char_indices().find(|&(at, c)| {
                c == '#' && (at == 0 || line[..at].ends_with(char::is_whitespace))
            });
            let line = comment.map_or(line, |(at, _)| &line[..at]);
            return Ok((line.trim_end().to_owned(), (end + 1).min(text.len())));
        }
    };
    let mut value = String::new();
    let mut inside = text[start + 1..].char_indices();
    let close = loop {
        match inside.next() {
            None => return Err((start, "this quote is not closed")),
            Some((at, c)) if c == quote => break start + 1 + at,
            Some((_, '\\')) if quote == '"' => match inside.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, 't')) => value.push('\t'),
                Some((_, c @ ('"' | '\\' | '$' | '`'))) => value.push(c),
                Some((_, c)) => value.extend(['\\', c]),
                None => return Err((start, "this quote is not closed")),
            },
            Some((_, c)) => value.push(c),
        }
    };
    let end = end_of_line(close);
    let after = text[close + 1..end].trim();
    if !after.is_empty() && !after.starts_with('#') {
        return Err((close + 1, "nothing but a comment may follow the closing quote"));
    }
    Ok((value, (end + 1).min(text.len())))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn values_are_what_they_look_like() {
        for (text, want) in [
            ("A=1", "1"),
            ("A=1\r\n", "1"),
            ("\u{feff}A=1\n", "1"),
            ("  export A = two words  \n", "two words"),
            ("A=", ""),
            ("A=   # nothing", ""),
            ("A=a # comment", "a"),
            ("A=http://h/#top", "http://h/#top"),
            ("A=it's", "it's"),
            ("A=$HOME and `pwd` \\n", "$HOME and `pwd` \\n"),
            ("A=a=b", "a=b"),
            ("A=\"a # b\" # comment", "a # b"),
            ("A=' \"x\" \\n '", " \"x\" \\n "),
            ("A=\"\\\"\\\\\\$\\`\\n\\t\\x\"", "\"\\$`\n\t\\x"),
            ("A='x\\'", "x\\"),
            ("A=\"one\ntwo\"\n", "one\ntwo"),
            ("A='one\n# two\n'\n", "one\n# two\n"),
            ("# A=0\n; A=0\n\nA=ü\n", "ü"),
            ("A=1\nA=2", "2"),
        ] {
            let variables = parse(text).unwrap_or_else(|e| panic!("{text:?}: {e:?}"));
            assert_eq!(variables.get("A").map(String::as_str), Some(want), "{text:?}");
            assert_eq!(variables.len(), 1, "{text:?}");
        }
        let all = parse("A='x\ny'\nexport B_1.c-d=2\n#C=3\nD=4").expect("right");
        assert_eq!(all.keys().collect::<Vec<_>>(), ["A", "B_1.c-d", "D"]);
    }

    #[test]
    fn mistakes_have_their_place() {
        for (text, line, column, message) in [
            ("A=1\n  B\n", 2, 3, "expected NAME=value"),
            ("A=1\nexport 1B=2", 2, 8, "a name is letters"),
            ("=x", 1, 1, "a name is letters"),
            ("A B=x", 1, 1, "a name is letters"),
            ("A=1\nNODE_UNIQUE_ID=1", 2, 1, "NODE_UNIQUE_ID is set by cohortd"),
            ("A=1\nB= \"x\nC=2\n", 2, 4, "this quote is not closed"),
            ("A=\"x\\", 1, 3, "this quote is not closed"),
            ("A=\"x\ny\" z", 2, 3, "nothing but a comment may follow"),
            ("A='x'y", 1, 6, "nothing but a comment may follow"),
            ("A=a\0b", 1, 3, "a value can't contain NUL"),
        ] {
            let mistake = parse(text).expect_err(text);
            assert_eq!((mistake.line, mistake.column), (line, column), "{text:?}");
            assert!(mistake.message.starts_with(message), "{text:?}: {}", mistake.message);
        }
        let late = parse("A='x\ny' \nü=1").expect_err("a name is ASCII");
        assert_eq!((late.line, late.column), (3, 1));
    }
}
