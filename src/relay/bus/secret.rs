//! What a host shows to the bus to be let in: the content of one of systemd's credentials, told
//! apart by what it looks like.

use std::fmt;

/// What is shown. It is printed nowhere.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// `USER:PASSWORD`. For Redis the user may be left out: it is `default` then.
    Login {
        /// The user.
        user: String,
        /// Its password.
        password: String,
    },
    /// One word: NATS' token, or the password of Redis' user `default`.
    Token(String),
    /// NATS: the seed of a user's key.
    Seed(String),
    /// NATS: what is in a `.creds` file.
    Creds {
        /// Who the user is.
        jwt: String,
        /// The seed of its key.
        seed: String,
    },
}

/// Why it is none. Nothing of it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// There is nothing.
    #[error("the bus' credential is empty: expected {EXPECTED}")]
    Empty,
    /// It is not of any of the forms.
    #[error("the bus' credential can't be read: expected {EXPECTED}")]
    Unknown,
    /// It is for the other engine.
    #[error(
        "the bus' credential is a key of NATS, but the bus is Redis: expected USER:PASSWORD or a password"
    )]
    OfNats,
    /// The key is damaged.
    #[error("the seed in the bus' credential is not whole: copy it anew")]
    Seed,
}

const EXPECTED: &str =
    "USER:PASSWORD or a token in one line, or for NATS a .creds file or an nkey seed";

/// Where the parts of a `.creds` file begin and end.
const JWT: (&str, &str) = ("-----BEGIN NATS USER JWT-----", "------END NATS USER JWT------");
const SEED: (&str, &str) = ("-----BEGIN USER NKEY SEED-----", "------END USER NKEY SEED------");

impl Secret {
    /// Reads a credential's content. White space around it, as of a last line's end, is not part of it.
    ///
    /// # Errors
    /// It is of no form that is known.
    pub fn parse(content: &[u8]) -> Result<Secret, SecretError> {
        let text = std::str::from_utf8(content).map_err(|_| SecretError::Unknown)?.trim();
        if text.is_empty() {
            return Err(SecretError::Empty);
        }
        if text.contains(JWT.0) {
            let part = |(begin, end): (&str, &str)| {
                let (_, after) = text.split_once(begin)?;
                Some(after.split_once(end)?.0.trim().to_owned())
            };
            let seed = part(SEED).filter(|seed| is_seed(seed)).ok_or(SecretError::Seed)?;
            let jwt = part(JWT).ok_or(SecretError::Unknown)?;
            return Ok(Secret::Creds { jwt, seed });
        }
        if text.contains(char::is_control) {
            return Err(SecretError::Unknown);
        }
        if is_seed(text) {
            return Ok(Secret::Seed(text.to_owned()));
        }
        Ok(match text.split_once(':') {
            Some((user, password)) => {
                Secret::Login { user: user.to_owned(), password: password.to_owned() }
            }
            None => Secret::Token(text.to_owned()),
        })
    }
}

/// The seed of a user's key: 58 characters of base 32, the first of which say what it is.
fn is_seed(text: &str) -> bool {
    let is_base32 = |byte: u8| matches!(byte, b'A'..=b'Z' | b'2'..=b'7');
    text.len() == 58 && text.starts_with("SU") && text.bytes().all(is_base32)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

    #[test]
    fn secrets_are_told_apart() {
        let login = |user: &str, password: &str| {
            Ok(Secret::Login { user: user.to_owned(), password: password.to_owned() })
        };
        let creds = format!(
            "{}\neyJ0.e30.sig\n{}\n\n*** a warning ***\n\n{}\n{A_SEED}\n{}\n",
            JWT.0, JWT.1, SEED.0, SEED.1
        );
        let jwt = "eyJ0.e30.sig".to_owned();
        for (content, want) in [
            ("shop:hush\n", login("shop", "hush")),
            ("shop:hu:sh ü", login("shop", "hu:sh ü")),
            (":hush", login("", "hush")),
            ("hush\r\n", Ok(Secret::Token("hush".to_owned()))),
            (A_SEED, Ok(Secret::Seed(A_SEED.to_owned()))),
            (&creds, Ok(Secret::Creds { jwt, seed: A_SEED.to_owned() })),
            (&creds.replace(A_SEED, &A_SEED[1..]), Err(SecretError::Seed)),
            (&creds.replace(SEED.1, ""), Err(SecretError::Seed)),
            ("", Err(SecretError::Empty)),
            (" \n", Err(SecretError::Empty)),
            ("two\nlines", Err(SecretError::Unknown)),
        ] {
            assert_eq!(Secret::parse(content.as_bytes()), want, "{content}");
        }
        assert_eq!(Secret::parse(b"\xff"), Err(SecretError::Unknown));
    }

    #[test]
    fn nothing_of_it_is_printed() {
        for content in ["shop:hush", "hush", A_SEED] {
            let secret = Secret::parse(content.as_bytes()).expect("a secret");
            assert_eq!(format!("{secret:?}"), "Secret");
        }
    }
}
