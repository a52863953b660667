//! PM2's custom actions, as @pm2/io and tx2 speak them: a worker announces names, is sent one, and
//! answers.
//!
//! Source: @pm2/io 6, `services/actions.js` and `transports/IPCTransport.js`.

use serde::{Deserialize, Serialize};

use super::Framing;

/// What a worker says of its actions.
#[derive(Debug, PartialEq)]
pub enum Said {
    /// `axm:action`: it has one of this name.
    Has(String),
    /// `axm:reply`: one has been carried out.
    Answers {
        /// Which.
        name: String,
        /// With what result.
        value: serde_json::Value,
    },
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "type")]
    kind: String,
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    action_name: String,
    #[serde(default, rename = "return")]
    result: serde_json::Value,
}

impl Said {
    /// Reads a message that was sorted as [`super::Incoming::Action`].
    ///
    /// # Errors
    /// It has no name, or an answer that JSON can't say.
    pub fn read(framing: Framing, frame: &[u8]) -> Result<Said, String> {
        let Envelope { kind, data } = framing.decode(frame)?;
        let name = data.action_name;
        Ok(match kind.as_str() {
            "axm:reply" => Said::Answers { name, value: data.result },
            _ => Said::Has(name),
        })
    }
}

/// What asks for an action: its bare name, or with a parameter an object.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Ask<'a> {
    /// Without a parameter.
    Plain(&'a str),
    /// With one.
    With {
        /// The action's name.
        msg: &'a str,
        /// The parameter.
        opts: &'a serde_json::Value,
    },
}

impl<'a> Ask<'a> {
    /// Asks for this action.
    pub fn new(name: &'a str, parameter: Option<&'a serde_json::Value>) -> Ask<'a> {
        match parameter {
            Some(opts) => Ask::With { msg: name, opts },
            None => Ask::Plain(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_framings_say_the_same() {
        let table = [
            (
                json!({"type": "axm:action", "data": {"action_name": "gc", "action_type": "custom",
                    "opts": null, "arity": 1}}),
                Ok(Said::Has("gc".into())),
            ),
            (
                json!({"type": "axm:reply", "data": {"at": 1795268000000_u64, "action_name": "gc",
                    "return": {"freed": [1, 2.5, "x", null]}}}),
                Ok(Said::Answers {
                    name: "gc".into(),
                    value: json!({"freed": [1, 2.5, "x", null]}),
                }),
            ),
            (
                json!({"type": "axm:reply", "data": {"action_name": "gc"}}),
                Ok(Said::Answers { name: "gc".into(), value: json!(null) }),
            ),
            (json!({"type": "axm:action", "data": {}}), Err(())),
            (json!({"type": "axm:action", "data": "gc"}), Err(())),
        ];
        for framing in [Framing::Json, Framing::Advanced] {
            for (message, want) in &table {
                let frame = framing.encode(message).expect("encodes");
                assert_eq!(&Said::read(framing, &frame).map_err(drop), want, "{message}");
            }
        }
    }

    #[test]
    fn an_action_is_asked_for_by_its_name() {
        let said = |ask: Ask<'_>| serde_json::to_value(ask).expect("JSON");
        assert_eq!(said(Ask::new("gc", None)), json!("gc"));
        let parameter = json!({"deep": 1});
        assert_eq!(
            said(Ask::new("gc", Some(&parameter))),
            json!({"msg": "gc", "opts": {"deep": 1}})
        );
    }
}
