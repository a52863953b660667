//! Who may change something: root and the app's own user, and whom polkit lets.
//!
//! The bus lets everybody call, because its policy knows users and groups, but no rules of an
//! administrator's and no passwords.

use std::collections::HashMap;

use rustix::process::geteuid;
use serde::Deserialize;
use tokio::sync::Semaphore;
use zbus::message::{Flags, Header};
use zbus::names::UniqueName;
use zbus::{Connection, Type, Variant};

use super::action;
use super::shared::{CallError, too_many};

const BUS: &str = "org.freedesktop.DBus";
const POLKIT: &str = "org.freedesktop.PolicyKit1";

/// A call may have so many MiB: none of ours comes near it.
const MAX_CALL: u32 = 1;

/// How many callers can be looked up at once.
const MAX_LOOKUPS: usize = 64;

/// How many calls polkit can be asked about at once.
const MAX_QUESTIONS: usize = 16;

/// How many of them can wait for a password: whoever gives none keeps nobody from being let in
/// without one.
const MAX_PASSWORDS: usize = 16;

/// The way to find out who may.
pub(super) struct Access {
    app: String,
    /// The user that the app runs as.
    owner: u32,
    lookups: Semaphore,
    questions: Semaphore,
    passwords: Semaphore,
}

/// What polkit says: `AuthorizationResult`.
#[derive(Debug, Deserialize, Type)]
struct Answer {
    is_authorized: bool,
    is_challenge: bool,
    #[expect(dead_code, reason = "a part of the message")]
    details: HashMap<String, String>,
}

impl Access {
    pub(super) fn new(app: &str) -> Access {
        Access {
            app: app.to_owned(),
            owner: geteuid().as_raw(),
            lookups: Semaphore::new(MAX_LOOKUPS),
            questions: Semaphore::new(MAX_QUESTIONS),
            passwords: Semaphore::new(MAX_PASSWORDS),
        }
    }

    /// The caller's user, if they may, or why not.
    pub(super) async fn check(
        &self,
        bus: &Connection,
        call: &Header<'_>,
    ) -> Result<u32, CallError> {
        if call.primary().body_len() > MAX_CALL << 20 {
            return Err(CallError::TooMuch(format!("a call can have at most {MAX_CALL} MiB")));
        }
        let nobody = || CallError::Denied("the bus does not say who calls".to_owned());
        let caller = call.sender().ok_or_else(nobody)?;
        let user = {
            let _turn = self.lookups.try_acquire().map_err(|_| too_many())?;
            user_of(bus, caller).await.map_err(|_| nobody())?
        };
        if user == 0 || user == self.owner {
            return Ok(user);
        }
        let interactive = call.primary().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH);
        let mut answer = {
            let _turn = self.questions.try_acquire().map_err(|_| too_many())?;
            self.ask_polkit(bus, caller, false).await
        };
        if let Ok(Answer { is_authorized: false, is_challenge: true, .. }) = answer
            && interactive
        {
            let _turn = self.passwords.try_acquire().map_err(|_| too_many())?;
            answer = self.ask_polkit(bus, caller, true).await;
        }
        let why_not = match answer {
            Ok(Answer { is_authorized: true, .. }) => return Ok(user),
            Ok(Answer { is_challenge: true, .. }) => "it wants a password here".to_owned(),
            Ok(_) => "it does not".to_owned(),
            Err(error) => format!("it can't be asked: {error}"),
        };
        Err(CallError::Denied(format!(
            "this is for root and the app's user (use sudo), and for whom polkit allows {}; {why_not}",
            action(&self.app)
        )))
    }

    async fn ask_polkit(
        &self,
        bus: &Connection,
        caller: &UniqueName<'_>,
        interactive: bool,
    ) -> zbus::Result<Answer> {
        let subject =
            ("system-bus-name", HashMap::from([("name", Variant::from(caller.as_str()))]));
        let details = HashMap::from([("app", self.app.as_str())]);
        let question = (subject, action(&self.app), details, u32::from(interactive), "");
        let interface = "org.freedesktop.PolicyKit1.Authority";
        let path = "/org/freedesktop/PolicyKit1/Authority";
        let answer = bus
            .call_method(Some(POLKIT), path, Some(interface), "CheckAuthorization", &question)
            .await?;
        answer.body().deserialize()
    }
}

async fn user_of(bus: &Connection, caller: &UniqueName<'_>) -> zbus::Result<u32> {
    let path = "/org/freedesktop/DBus";
    let question = caller.as_str();
    let answer = bus.call_method(Some(BUS), path, Some(BUS), "GetConnectionUnixUser", &question);
    answer.await?.body().deserialize()
}
