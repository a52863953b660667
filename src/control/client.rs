//! `cohortctl`'s end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use super::wire::{Answer, Call, read, write};
use super::{INTERFACE, SOCKET};
use crate::places;

/// How long another cohortd that goes on with the app may take until it answers.
const LIMIT: Duration = Duration::from_secs(3);

/// How often it is tried.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection to a running app.
#[derive(Debug)]
pub struct Client {
    app: String,
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
    /// Another cohortd goes on with the app, and has not heard of it.
    #[error("{0}")]
    Left(String),
    /// What was asked for did not happen.
    #[error("{0}")]
    Failed(String),
}

fn tried(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(" or ")
}

fn has_folder(socket: &Path) -> bool {
    socket.parent().is_some_and(Path::is_dir)
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
                Ok(connection) => {
                    let connection = BufReader::new(connection);
                    return Ok(Client { app: app.to_owned(), connection });
                }
                Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(ClientError::Refused { path: path.clone(), source });
                }
                Err(_) => {}
            }
        }
        Err(ClientError::NotRunning { app: app.to_owned(), paths })
    }

    /// [`Client::connect`], but an app that has its folder is given a moment: another cohortd may be about
    /// to go on with it.
    ///
    /// # Errors
    /// The same.
    pub async fn reach(app: &str) -> Result<Client, ClientError> {
        let until = Instant::now() + LIMIT;
        loop {
            match Client::connect(app).await {
                Err(ClientError::NotRunning { paths, .. })
                    if Instant::now() < until && paths.iter().any(|path| has_folder(path)) =>
                {
                    sleep(PAUSE).await;
                }
                reached => return reached,
            }
        }
    }

    /// Calls a method and waits for its effect. If another cohortd goes on with the app meanwhile, that
    /// one's.
    ///
    /// # Errors
    /// It did not happen, and why.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: serde_json::Value,
    ) -> Result<T, ClientError> {
        let call = Call { method: format!("{INTERFACE}.{method}"), parameters, ..Call::default() };
        loop {
            self.say(&call).await?;
            match self.answer().await {
                Err(ClientError::Left(_)) => {
                    sleep(PAUSE).await;
                    *self = Client::reach(&self.app).await?;
                }
                answered => return answered,
            }
        }
    }

    /// Begins to watch the app; [`Client::answer`] gives a status, and then one at each change.
    ///
    /// # Errors
    /// The conversation broke off.
    pub async fn watch(&mut self) -> Result<(), ClientError> {
        let call = Call { method: format!("{INTERFACE}.Watch"), more: true, ..Call::default() };
        self.say(&call).await
    }

    async fn say(&mut self, call: &Call) -> Result<(), ClientError> {
        Ok(write(self.connection.get_mut(), call).await?)
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
                let reason = answer.parameters["reason"]
                    .as_str()
                    .map_or_else(|| format!("{error} {}", answer.parameters), str::to_owned);
                Err(match error.strip_prefix(INTERFACE) {
                    Some(".Stopped") => ClientError::Stopped(reason),
                    Some(".Left") => ClientError::Left(reason),
                    _ => ClientError::Failed(reason),
                })
            }
        }
    }
}
