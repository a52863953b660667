//! The supervisor's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio::io::BufReader;
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Answer, Call, read, write};
use super::{INTERFACE, SOCKET};
use crate::places;
use crate::supervisor::{Handle, Refusal, Request, Scale};

/// An open control socket. Its path is removed when it is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Deserialize)]
struct ScaleParameters {
    workers: Scale,
}

impl Control {
    /// Opens an app's control socket.
    ///
    /// # Errors
    /// There is no place for it, or another cohortd runs an app of this name.
    pub fn open(app: &str) -> io::Result<Control> {
        let path = places::folder(app)?.join(SOCKET);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let message = format!("{} is in use: this app runs already", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, message));
        }
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        only_for_its_owner(&path)?;
        Ok(Control { listener, path })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, handle: Handle) {
        loop {
            match self.listener.accept().await {
                Ok((connection, _)) => {
                    tokio::spawn(converse(connection, handle.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket can't accept for a moment");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

fn only_for_its_owner(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

async fn converse(connection: UnixStream, handle: Handle) {
    let (from, mut to) = connection.into_split();
    let mut from = BufReader::new(from);
    loop {
        let answer = match read::<Call>(&mut from).await {
            Ok(Some(call)) => answer(call, &handle).await,
            Ok(None) => return,
            Err(error) => {
                let refusal = refused("InvalidMessage", &error.to_string());
                let _ = write(&mut to, &refusal).await;
                return;
            }
        };
        if write(&mut to, &answer).await.is_err() {
            return;
        }
    }
}

async fn answer(call: Call, handle: &Handle) -> Answer {
    let method = call.method.strip_prefix(INTERFACE).and_then(|name| name.strip_prefix('.'));
    match method {
        Some("Reload") => said(handle.ask(Request::Reload).await),
        Some("Status") => said(handle.ask(Request::Status).await),
        Some("Scale") => match serde_json::from_value::<ScaleParameters>(call.parameters) {
            Ok(scale) => said(handle.ask(|reply| Request::Scale(scale.workers, reply)).await),
            Err(error) => refused("InvalidParameter", &error.to_string()),
        },
        _ => refused("MethodNotFound", &call.method),
    }
}

fn said<T: Serialize>(result: Result<T, Refusal>) -> Answer {
    match result.map(serde_json::to_value) {
        Ok(Ok(parameters)) => Answer { error: None, parameters },
        Ok(Err(error)) => refused("Internal", &error.to_string()),
        Err(stopped @ Refusal::Stopped) => refused("Stopped", &stopped.to_string()),
        Err(Refusal::Failed(reason)) => refused("Failed", &reason),
    }
}

fn refused(error: &str, reason: &str) -> Answer {
    Answer {
        error: Some(format!("{INTERFACE}.{error}")),
        parameters: serde_json::json!({ "reason": reason }),
    }
}
