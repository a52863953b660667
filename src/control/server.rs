//! The supervisor's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, from_value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::wire::{Answer, Call, read, write};
use super::{INTERFACE, SOCKET};
use crate::places;
use crate::supervisor::{Handle, Refusal, Request, Scale, Trigger};

/// Its types and methods, for people and tools.
const DESCRIPTION: &str = include_str!("org.cohortd.App.varlink");

/// The interface that every service of varlink's has.
const VARLINK: &str = "org.varlink.service";

/// Source: <https://varlink.org/Service>.
const VARLINK_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

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
        let call = match read::<Call>(&mut from).await {
            Ok(Some(call)) => call,
            Ok(None) => return,
            Err(error) => {
                let refusal = refused("InvalidMessage", &error.to_string());
                let _ = write(&mut to, &refusal).await;
                return;
            }
        };
        if call.method == format!("{INTERFACE}.Watch") {
            return watch(call.more, from, to, &handle).await;
        }
        let oneway = call.oneway;
        let answer = answer(call, &handle).await;
        if !oneway && write(&mut to, &answer).await.is_err() {
            return;
        }
    }
}

/// Says how the app is, again and again, until the client has gone or the app has ended.
async fn watch(
    more: bool,
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    handle: &Handle,
) {
    if !more {
        let _ = write(&mut to, &misused("ExpectedMore", json!({}))).await;
        return;
    }
    let mut changes = handle.changes();
    loop {
        changes.mark_unchanged();
        let mut answer = said(handle.ask(Request::Status).await);
        answer.continues = answer.error.is_none();
        if write(&mut to, &answer).await.is_err() || !answer.continues {
            return;
        }
        tokio::select! {
            // When the supervisor has ended, the next question is answered so.
            _ = changes.changed() => {}
            // Nothing else is to be said on this connection.
            _ = from.fill_buf() => return,
        }
    }
}

#[derive(Deserialize)]
struct ToScale {
    workers: Scale,
}

#[derive(Deserialize)]
struct ToRestart {
    slot: usize,
}

#[derive(Deserialize)]
struct ToSignal {
    slot: Option<usize>,
    signal: i32,
}

#[derive(Deserialize)]
struct ToSend {
    slot: Option<usize>,
    message: Value,
}

#[derive(Deserialize)]
struct ToTrigger {
    slot: Option<usize>,
    #[serde(flatten)]
    trigger: Trigger,
}

#[derive(Deserialize)]
struct ToDescribe {
    interface: String,
}

async fn answer(call: Call, handle: &Handle) -> Answer {
    let Call { method, parameters, .. } = call;
    let called = match method.rsplit_once('.') {
        Some((INTERFACE, name)) => of_app(name, parameters, handle).await,
        Some((VARLINK, name)) => of_varlink(name, parameters),
        _ => Ok(None),
    };
    match called {
        Ok(Some(answer)) => answer,
        Ok(None) => misused("MethodNotFound", json!({ "method": method })),
        // Varlink wants the parameter's name, which serde says in words.
        Err(error) => misused("InvalidParameter", json!({ "parameter": error.to_string() })),
    }
}

/// `None`: there is no such method.
async fn of_app(
    method: &str,
    parameters: Value,
    handle: &Handle,
) -> serde_json::Result<Option<Answer>> {
    Ok(Some(match method {
        "Reload" => said(handle.ask(Request::Reload).await),
        "Reexec" => said(handle.ask(Request::Reexec).await),
        "Status" => said(handle.ask(Request::Status).await),
        "Diff" => said(handle.ask(Request::Diff).await),
        "Scale" => {
            let ToScale { workers } = from_value(parameters)?;
            said(handle.ask(|reply| Request::Scale(workers, reply)).await)
        }
        "Restart" => {
            let ToRestart { slot } = from_value(parameters)?;
            said(handle.ask(|reply| Request::Restart(slot, reply)).await)
        }
        "Signal" => {
            let ToSignal { slot, signal } = from_value(parameters)?;
            said(handle.ask(|reply| Request::Signal(slot, signal, reply)).await)
        }
        "Send" => {
            let ToSend { slot, message } = from_value(parameters)?;
            said(handle.ask(|reply| Request::Send(slot, message, reply)).await)
        }
        "Trigger" => {
            let ToTrigger { slot, trigger } = from_value(parameters)?;
            said(handle.ask(|reply| Request::Trigger(slot, trigger, reply)).await)
        }
        _ => return Ok(None),
    }))
}

/// What every service of varlink's says of itself.
fn of_varlink(method: &str, parameters: Value) -> serde_json::Result<Option<Answer>> {
    let parameters = match method {
        "GetInfo" => json!({
            "vendor": "cohortd",
            "product": "cohortd",
            "version": env!("CARGO_PKG_VERSION"),
            "url": env!("CARGO_PKG_REPOSITORY"),
            "interfaces": [VARLINK, INTERFACE],
        }),
        "GetInterfaceDescription" => match from_value::<ToDescribe>(parameters)?.interface.as_str()
        {
            INTERFACE => json!({ "description": DESCRIPTION }),
            VARLINK => json!({ "description": VARLINK_DESCRIPTION }),
            interface => {
                let none = misused("InterfaceNotFound", json!({ "interface": interface }));
                return Ok(Some(none));
            }
        },
        _ => return Ok(None),
    };
    Ok(Some(Answer { parameters, ..Answer::default() }))
}

fn said<T: Serialize>(result: Result<T, Refusal>) -> Answer {
    match result.map(serde_json::to_value) {
        Ok(Ok(parameters)) => Answer { parameters, ..Answer::default() },
        Ok(Err(error)) => refused("Failed", &error.to_string()),
        Err(stopped @ Refusal::Stopped) => refused("Stopped", &stopped.to_string()),
        Err(left @ Refusal::Left) => refused("Left", &left.to_string()),
        Err(Refusal::Failed(reason)) => refused("Failed", &reason),
    }
}

fn refused(error: &str, reason: &str) -> Answer {
    Answer {
        error: Some(format!("{INTERFACE}.{error}")),
        parameters: json!({ "reason": reason }),
        continues: false,
    }
}

/// An error of varlink's own.
fn misused(error: &str, parameters: Value) -> Answer {
    Answer { error: Some(format!("{VARLINK}.{error}")), parameters, continues: false }
}
