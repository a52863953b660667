//! Whom a command is for: `APP`, or `APP#SLOT` for the worker of one slot.

use std::str::FromStr;

use crate::config::{APP_NAME, is_app_name};

/// An app, or one of its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) app: String,
    pub(super) slot: Option<usize>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let (app, slot) = match text.split_once('#') {
            Some((app, slot)) => {
                let number = slot.parse().map_err(|_| {
                    format!("\"{slot}\" is no slot: they are numbered from 0, as in {app}#0")
                })?;
                (app, Some(number))
            }
            None => (text, None),
        };
        if !is_app_name(app) {
            return Err(format!("\"{app}\" can't be an app's name: {APP_NAME}"));
        }
        Ok(Target { app: app.to_owned(), slot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_and_perhaps_a_slot() {
        let target = |text: &str| text.parse::<Target>().map(|t| (t.app, t.slot)).ok();
        assert_eq!(target("shop"), Some(("shop".into(), None)));
        assert_eq!(target("shop#0"), Some(("shop".into(), Some(0))));
        assert_eq!(target("shop#12"), Some(("shop".into(), Some(12))));
        for wrong in ["", "#1", "shop#", "shop#one", "shop#-1", "shop#1#2", "../x"] {
            assert_eq!(target(wrong), None, "{wrong}");
        }
    }
}
