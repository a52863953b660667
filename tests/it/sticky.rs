//! Clients without a session stay where they are: by cookie, by header, by address.

use std::collections::BTreeSet;

use crate::app::{App, Spec};
use crate::raw::{Answer, Wire};
use crate::reload::ok;

fn app(sticky: &str) -> App {
    let toml = format!("[route]\nsticky = {sticky:?}\n[reload]\ncanary = \"0s\"");
    Spec::new("web.js").more(&toml).workers(4).start()
}

/// Asks with these header lines, on a connection of its own.
fn ask(app: &App, lines: &str) -> Answer {
    let mut wire = Wire::open(app.address());
    wire.send(format!("GET /whoami HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
    wire.answer()
}

fn worker(answer: &Answer) -> u64 {
    answer.json()["worker"].as_u64().expect("a number")
}

/// The workers that answer twenty requests with these lines.
fn workers(app: &App, lines: &str) -> BTreeSet<u64> {
    (0..20).map(|_| worker(&ask(app, lines))).collect()
}

/// A name and value that we have issued.
fn issued(answer: &Answer) -> Option<String> {
    let cookie = answer.field("set-cookie")?;
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    cookie.split(';').next().map(str::to_owned)
}

/// Where each of many keys goes.
fn places(app: &App, line: impl Fn(usize) -> String) -> Vec<u64> {
    (0..60).map(|n| worker(&ask(app, &line(n)))).collect()
}

fn moved(before: &[u64], after: &[u64]) -> usize {
    before.iter().zip(after).filter(|(a, b)| a != b).count()
}

#[test]
fn a_client_gets_a_cookie_and_comes_back_with_it() {
    let app = app("cookie:sid");
    let mut places = BTreeSet::new();
    for _ in 0..12 {
        let first = ask(&app, "");
        let cookie = issued(&first).expect("a cookie");
        let lines = format!("Cookie: theme=dark; {cookie}\r\n");
        assert_eq!(workers(&app, &lines), [worker(&first)].into());
        let again = ask(&app, &lines);
        assert_eq!(issued(&again), None, "it has one");
        // The app's own cookie, which came with it, does not move it.
        let both = format!("Cookie: sid=whatever; {cookie}\r\n");
        assert_eq!(workers(&app, &both), [worker(&first)].into());
        places.insert(worker(&first));
    }
    assert!(places.len() > 1, "they are spread: {places:?}");
    // One that names a place that is no more gets another.
    let stray = ask(&app, "Cookie: cohortd_route=77\r\n");
    assert!(issued(&stray).is_some_and(|cookie| cookie != "cohortd_route=77"));
}

#[test]
fn several_clients_on_one_connection_keep_their_places() {
    let app = app("cookie:sid");
    let cookies: Vec<(String, u64)> = (0..8)
        .map(|_| ask(&app, ""))
        .map(|answer| (issued(&answer).expect("a cookie"), worker(&answer)))
        .collect();
    let mut wire = Wire::open(app.address());
    for (cookie, place) in cookies.iter().cycle().take(80) {
        wire.send(format!("GET /whoami HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"));
        assert_eq!(worker(&wire.answer()), *place);
    }
}

#[test]
fn an_app_s_cookie_a_header_or_an_address_decides() {
    for (sticky, name) in [
        ("cookie:sid", "Cookie: sid="),
        ("header:X-Tenant", "x-tenant: "),
        ("ip", "X-Forwarded-For: 192.0.2."),
    ] {
        let app = app(sticky);
        let line = |n: usize| format!("{name}{n}\r\n");
        for n in 0..5 {
            assert_eq!(workers(&app, &line(n)).len(), 1, "{sticky}");
        }
        let before = places(&app, line);
        assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "{sticky}: all have some");
        assert_eq!(issued(&ask(&app, &line(1))), None, "{sticky}: it has its place");
        // One of five gets what is fair, and nobody else moves.
        ok(&app, &["scale", "5"]);
        let after = places(&app, line);
        assert!((1..30).contains(&moved(&before, &after)), "{sticky}: {before:?} {after:?}");
        ok(&app, &["scale", "4"]);
        assert_eq!(places(&app, line), before, "{sticky}");
        // What takes a worker's place takes its clients.
        ok(&app, &["reload"]);
        let slots = |places: &[u64]| {
            let first: Vec<usize> = places
                .iter()
                .map(|p| places.iter().position(|q| q == p).expect("itself"))
                .collect();
            first
        };
        assert_eq!(slots(&places(&app, line)), slots(&before), "{sticky}: together as before");
    }
}

#[test]
fn only_who_is_trusted_is_believed_about_addresses() {
    let toml = "[route]\nsticky = \"ip\"\ntrusted = []";
    let app = Spec::new("web.js").more(toml).workers(4).start();
    let all: BTreeSet<u64> =
        (0..40).map(|n| worker(&ask(&app, &format!("X-Forwarded-For: 192.0.2.{n}\r\n")))).collect();
    assert_eq!(all.len(), 1, "all are 127.0.0.1");
    let toml = "[route]\nsticky = \"ip\"\ntrusted = [\"loopback\", \"10.0.0.0/8\"]";
    let app = Spec::new("web.js").more(toml).workers(4).start();
    let by = |list: &str| workers(&app, &format!("X-Forwarded-For: {list}\r\n"));
    let client = by("192.0.2.7");
    assert_eq!(client.len(), 1);
    assert_eq!(by("192.0.2.7, 10.1.2.3"), client, "behind two proxies");
    for n in 0..5 {
        assert_eq!(by(&format!("198.51.100.{n}, 192.0.2.7")), client, "what it claims itself");
    }
    let v6 = by("2001:db8:1:2::1");
    assert_eq!(by("2001:db8:1:2:ffff::9"), v6, "one network, one client");
}

#[test]
fn websockets_go_where_their_client_belongs() {
    let app = app("header:X-Tenant");
    let client = app.client("clients/belongs.js", &["x-tenant"]);
    assert_eq!(client["astray"], 0, "{client}");
    assert!(client["workers"].as_u64() > Some(1), "{client}");
}
