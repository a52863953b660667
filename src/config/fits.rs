//! Keys that don't go together: what means nothing to workers of a kind, or can't be had with another
//! key's value.

use std::ops::Range;

use toml::Spanned;

use super::Kind;
use super::check::{Check, Checked};
use super::file::{File, Route, Text};

impl Check<'_> {
    /// Refuses what means nothing to workers of this kind.
    pub(super) fn fits(&self, raw: &File, kind: Kind) -> Checked<()> {
        let refuse = |span: Range<usize>, key: &str, why: &str| {
            self.error(span, format!("{key} means nothing to workers of this kind: {why}"))
        };
        if let Some(text) = raw.serialization.as_ref().filter(|_| kind != Kind::Node) {
            return refuse(text.span(), "serialization", "they have no IPC channel");
        }
        if let Some(key) = raw.route.preserve_client_ip.as_ref().filter(|_| kind != Kind::Node) {
            return refuse(key.span(), "route.preserve_client_ip", "they are told in headers");
        }
        let message = |text: &&Text| text.as_ref().starts_with("message:");
        if let Some(text) = raw.stop.method.iter().flatten().find(message)
            && kind != Kind::Node
        {
            return refuse(text.span(), "a message", "they have no IPC channel");
        }
        if raw.route.protocol.as_ref().is_some_and(|text| text.as_ref() == "tcp") {
            let needs_http = |text: &&Text| {
                let word = text.as_ref();
                word.starts_with("http:")
                    || word.starts_with("cookie:")
                    || word.starts_with("header:")
            };
            let keys = [&raw.ready.when, &raw.route.sticky].into_iter().flatten();
            let route = &raw.route;
            let own = [&raw.health.http, &raw.log.access, &route.request_id, &route.host_cookie];
            let found = own.into_iter().flatten().chain(keys.filter(needs_http)).next();
            if let Some(text) = found {
                return self.error(text.span(), "this needs HTTP, and route.protocol is \"tcp\"");
            }
        }
        if let Some(deliver) = raw.route.deliver.as_ref().filter(|text| text.as_ref() != "auto") {
            if kind != Kind::Node {
                return refuse(deliver.span(), "route.deliver", "they can't be given connections");
            }
            self.fits_delivery(raw, deliver.as_ref())?;
        }
        self.fits_tls(raw)?;
        self.fits_forward(raw)?;
        if kind == Kind::Job {
            if let Some(text) = raw.listen.first() {
                return refuse(text.span(), "listen", "a job has no socket");
            }
            if let Some(text) = &raw.health.http {
                return refuse(text.span(), "health.http", "a job has no socket");
            }
        }
        Ok(())
    }

    /// Refuses what hands connections over of which only we have the keys.
    fn fits_tls(&self, raw: &File) -> Checked<()> {
        let Route { protocol, deliver, .. } = &raw.route;
        let is = |text: &&Text, words: &[&str]| words.contains(&text.as_ref().as_str());
        let tcp = protocol.iter().find(|text| is(text, &["tcp"]));
        let whole = deliver.iter().find(|text| is(text, &["handoff", "shared"]));
        match tcp.or(whole).filter(|_| raw.tls.is_some()) {
            Some(text) => self.error(
                text.span(),
                "this gives connections to the workers, and with [tls] only cohortd can read them",
            ),
            None => Ok(()),
        }
    }

    /// Refuses what leaves nothing to pass on to other hosts.
    fn fits_forward(&self, raw: &File) -> Checked<()> {
        let Some(forward) = &raw.relay.forward else { return Ok(()) };
        let Route { protocol, deliver, sticky, .. } = &raw.route;
        let keys = [
            ("protocol", protocol, &["tcp"][..]),
            ("deliver", deliver, &["handoff", "shared"]),
            ("sticky", sticky, &["off"]),
        ];
        let set = keys.into_iter().find_map(|(key, text, words)| {
            let word = text.as_ref()?.as_ref().as_str();
            words.contains(&word).then_some((key, word))
        });
        match set {
            Some((key, word)) => self.error(
                forward.span(),
                format!(
                    "this needs cohortd to find the worker of each request's session, and route.{key} \
                     is \"{word}\""
                ),
            ),
            None => Ok(()),
        }
    }

    /// Refuses what can't be had where requests don't pass through us.
    fn fits_delivery(&self, raw: &File, deliver: &str) -> Checked<()> {
        let route = &raw.route;
        let is_shared = deliver == "shared";
        let spreads = |text: &&Text| {
            let word = text.as_ref();
            word.starts_with("cookie:") || is_shared && word != "auto" && word != "off"
        };
        let texts = [&raw.log.access, &route.request_id, &route.forwarded].into_iter().flatten();
        let text = texts.chain(route.sticky.iter().filter(spreads)).next().map(Spanned::span);
        let proxied = route.proxy_protocol.as_ref().filter(|on| is_shared && *on.as_ref());
        if let Some(span) = text.or(proxied.map(Spanned::span)) {
            let needs = if is_shared { "connections" } else { "each request" };
            return self.error(
                span,
                format!(
                    "this needs {needs} to pass through cohortd, and route.deliver is \"{deliver}\""
                ),
            );
        }
        Ok(())
    }
}
