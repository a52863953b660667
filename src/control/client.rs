//! `cohortctl`'s end of the control socket.

use std::io;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use tokio::io::BufReader;
use tokio::net::UnixStream;

use super::wire::{Answer, Call, read, write};
use super::{INTERFACE, SOCKET};
use crate::places;

/// A connection to a running app.
#[derive(Debug)]
pub struct Client {
    connection: BufReader<UnixStream>,
}

/// A running app was not reached, or said no.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No control socket answers.
    #[error("{app} does not run here: no control socket at {}", tried(paths))]
    NotRunning {
        /// The app.
        app: String,
        /// Where it was looked for.
        paths: Vec<PathBuf>,
    },
    /// The socket is another user's.
    #[error("{path}: {source} (it is for root and the app's user: use sudo)", path = path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the app's supervisor broke off: {0}")]
    Broken(#[from] io::Error),
    /// The app was stopped before what was asked for happened.
    #[error("{0}")]
    Stopped(String),
    /// What was asked for did not happen.
    #[error("{0}")]
    Failed(String),
}

fn tried(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

impl Client {
    /// Connects to a running app.
    ///
    /// # Errors
    /// It does not run, or belongs to somebody else.
    pub async fn connect(app: &str) -> Result<Client, ClientError> {
        let paths: Vec<PathBuf> =
            places::candidates(app).into_iter().map(|folder| folder.join(SOCKET)).collect();
        for path in &paths {
            match UnixStream::connect(path).await {
                Ok(connection) => return Ok(Client { connection: BufReader::new(connection) }),
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(ClientError::Refused { path: path.clone(), source });
                }
                Err(_) => {}
            }
        }
        Err(ClientError::NotRunning { app: app.to_owned(), paths })
    }

    /// Calls a method and waits for its effect.
    ///
    /// # Errors
    /// It did not happen, and why.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: serde_json::Value,
    ) -> Result<T, ClientError> {
        self.say(Call { method: format!("{INTERFACE}.{method}"), parameters, ..Call::default() })
            .await?;
        self.answer().await
    }

    /// Begins to watch the app; [`Client::answer`] gives a status, and then one at each change.
    ///
    /// # Errors
    /// The conversation broke off.
    pub async fn watch(&mut self) -> Result<(), ClientError> {
        let call = Call { method: format!("{INTERFACE}.Watch"), more: true, ..Call::default() };
        self.say(call).await
    }

    async fn say(&mut self, call: Call) -> Result<(), ClientError> {
        Ok(write(self.connection.get_mut(), &call).await?)
    }

    /// The next answer.
    ///
    /// # Errors
    /// It did not happen, and why.
    pub async fn answer<T: DeserializeOwned>(&mut self) -> Result<T, ClientError> {
        let answer: Answer = read(&mut self.connection)
            .await?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match answer.error {
            None => Ok(serde_json::from_value(answer.parameters).map_err(io::Error::from)?),
            Some(error) => {
                let stopped = error == format!("{INTERFACE}.Stopped");
                let reason = answer.parameters["reason"]
                    .as_str()
                    .map_or_else(|| format!("{error} {}", answer.parameters), str::to_owned);
                Err(if stopped { ClientError::Stopped } else { ClientError::Failed }(reason))
            }
        }
    }
}
