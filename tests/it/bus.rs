//! Links to a real NATS and a real Redis: what goes from host to host, what happens when the bus is
//! away, slow, forbidden or full of strangers.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use cohortd::relay::bus::wire::{HEADER, Header, HostId, Kind};
use cohortd::relay::bus::{About, Engine, Event, Link, Secret, Settings, State, To};
use cohortd::worker::WorkerId;
use cohortd::worker::wire::Framing;
use nkeys::KeyPair;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tracing::Level;

use crate::app::{free_port, until};
use crate::broker::Broker;
use crate::cluster::certificate;

impl Broker {
    pub(crate) fn settings(&self) -> Settings {
        settings(&self.url())
    }

    /// With TLS, trusting its certificate.
    fn tls(&self) -> Settings {
        let scheme = if self.engine() == Engine::Nats { "tls" } else { "rediss" };
        let ca = fs::read(self.folder().join("cert.pem")).expect("it has one");
        let url = format!("{scheme}://localhost:{}", self.port());
        Settings { ca: Some(ca), ..settings(&url) }
    }
}

fn settings(url: &str) -> Settings {
    Settings {
        url: url.parse().unwrap_or_else(|e| panic!("{url}: {e}")),
        prefix: "cohortd.test".parse().expect("a prefix"),
        own: HostId(fastrand::u64(..)),
        secret: None,
        ca: None,
        client: None,
        queue: 16 << 20,
    }
}

fn with_secret(settings: &Settings, secret: &str) -> Settings {
    let secret = Secret::parse(secret.as_bytes()).expect("a secret");
    Settings { secret: Some(secret), own: HostId(fastrand::u64(..)), ..settings.clone() }
}

/// A link with a runtime and a log of its own, as each host has them.
pub(crate) struct Host {
    pub(crate) id: HostId,
    pub(crate) link: Arc<Link>,
    events: Arc<Mutex<Vec<Event>>>,
    log: Log,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Lines that a host has logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl Host {
    fn new(settings: Settings) -> Host {
        let id = settings.own;
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let heard = events.clone();
        let (end, ended) = oneshot::channel();
        let (sender, receiver) = sync_channel(1);
        let log = Log::default();
        let written = log.clone();
        // All that could be said of a secret.
        let level = if settings.secret.is_some() { Level::TRACE } else { Level::WARN };
        let thread = std::thread::spawn(move || {
            let subscriber = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
            let subscriber = subscriber.with_writer(move || written.clone()).finish();
            let _logging = tracing::subscriber::set_default(subscriber);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let link = Link::start(settings, move |event| {
                    heard.lock().expect("no panic").push(event);
                });
                sender.send(link.clone()).expect("it waits");
                let _ = ended.await;
                link.close().await;
            });
        });
        let link = receiver.recv().expect("a link");
        Host { id, link, events, log, end: Some(end), thread: Some(thread) }
    }

    /// One that is connected.
    pub(crate) fn up(settings: Settings) -> Host {
        let host = Host::new(settings);
        host.comes_up();
        host
    }

    fn is_up(&self) -> bool {
        matches!(self.link.state(), State::Up { .. })
    }

    fn why(&self) -> String {
        match self.link.state() {
            State::Up { .. } => "up".to_owned(),
            State::Down { why, .. } => why,
        }
    }

    #[track_caller]
    fn comes_up(&self) {
        assert!(until(|| self.is_up()), "{}", self.why());
    }

    /// It is not connected, for a reason with these words.
    #[track_caller]
    fn stays_down(&self, words: &[&str]) {
        let so = until(|| words.iter().all(|word| self.why().contains(word)));
        assert!(so, "{words:?}: {}", self.why());
        assert_eq!(self.link.counts().connections, 0, "{}", self.why());
    }

    /// Neither why it is down nor its log, whatever its level, has any of these.
    #[track_caller]
    fn tells_nothing(&self, secrets: &[&str]) {
        let said = format!("{:?} {}", self.link, self.log.text());
        assert!(!self.log.text().is_empty());
        assert!(secrets.iter().all(|secret| !said.contains(secret)), "{said}");
    }

    fn say(&self, to: To, body: impl Into<Bytes>) {
        self.link.send(to, about(7), body);
    }

    /// How many beats it has heard.
    fn beats(&self) -> usize {
        let is_beat = |event: &&Event| match event {
            Event::Frame(header, _) => header.kind == Kind::Beat && header.host != self.id,
            _ => false,
        };
        self.events.lock().expect("no panic").iter().filter(is_beat).count()
    }

    /// What it has heard but beats.
    pub(crate) fn frames(&self) -> Vec<(Header, Bytes)> {
        let events = self.events.lock().expect("no panic");
        let frame = |event: &Event| match event {
            Event::Frame(header, body) if header.kind != Kind::Beat => {
                Some((*header, body.clone()))
            }
            _ => None,
        };
        events.iter().filter_map(frame).collect()
    }

    /// The bodies of what it has heard, when there are so many.
    #[track_caller]
    fn hears(&self, count: usize) -> Vec<Bytes> {
        assert!(until(|| self.frames().len() >= count), "{} of {count}", self.frames().len());
        self.frames().into_iter().map(|(_, body)| body).collect()
    }

    /// A word comes from there to here, after whatever was lost when the connection was another.
    #[track_caller]
    fn is_heard_by(&self, other: &Host) {
        let word = Bytes::from(format!("word {}", fastrand::u64(..)));
        self.say(To::All, word.clone());
        let heard = || other.frames().iter().any(|(_, body)| *body == word);
        assert!(until(heard), "{} -> {}: {:?}", self.why(), other.why(), other.link.counts());
    }

    /// Closes it.
    fn end(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it did not panic");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(self.end.take());
        } else {
            self.end();
        }
    }
}

fn about(worker: u64) -> About {
    About { kind: Kind::Packet, framing: Framing::Json, worker: WorkerId(worker) }
}

/// Each of these is a test on both engines.
macro_rules! on_both {
    ($($name:ident)*) => {
        mod nats { $(#[test] fn $name() { super::$name(super::Engine::Nats); })* }
        mod redis { $(#[test] fn $name() { super::$name(super::Engine::Redis); })* }
    };
}

on_both! {
    hosts_hear_each_other
    bodies_come_whole_and_in_order
    a_bus_may_come_later_and_come_back
    a_slow_bus_costs_the_oldest_packets
    only_the_right_password_lets_in
    only_the_right_certificates_are_accepted
    what_is_forbidden_is_told
    strangers_are_ignored
    what_is_said_last_goes_out
}

fn hosts_hear_each_other(engine: Engine) {
    let broker = Broker::started(engine, "");
    let [a, b, c] = [(), (), ()].map(|()| Host::up(broker.settings()));
    a.say(To::All, "from a");
    b.say(To::Host(a.id), "to a");
    assert_eq!(b.hears(1), ["from a"]);
    assert_eq!(c.hears(1), ["from a"]);
    assert_eq!(a.hears(1), ["to a"]);
    let (header, _) = b.frames()[0];
    let want = Header {
        kind: Kind::Packet,
        more: false,
        rest: false,
        direct: false,
        framing: Framing::Json,
        host: a.id,
        seq: 0,
        worker: WorkerId(7),
    };
    assert_eq!(header, want);
    assert_eq!(a.frames()[0].0, Header { host: b.id, direct: true, ..want });
    // By now it would have come to those that it is not for.
    a.is_heard_by(&b);
    b.is_heard_by(&a);
    b.is_heard_by(&c);
    assert_eq!((a.frames().len(), b.frames().len(), c.frames().len()), (3, 2, 4));
    for host in [&a, &b, &c] {
        assert_eq!(host.events.lock().expect("no panic")[0], Event::Up);
        // Those of two others, for longer than the link would stay without its own.
        assert!(until(|| host.beats() >= 12), "{}", host.beats());
        let counts = host.link.counts();
        assert_eq!((counts.lost, counts.repeated, counts.foreign), (0, 0, 0), "{counts:?}");
        assert_eq!((counts.dropped.frames, counts.connections), (0, 1), "{counts:?}");
        assert!(counts.sent.frames >= 2 && counts.received.frames >= 2, "{counts:?}");
        assert!(counts.delay.is_some(), "{counts:?}");
    }
}

fn bodies_come_whole_and_in_order(engine: Engine) {
    let broker = Broker::started(engine, "");
    let (a, b) = (Host::up(broker.settings()), Host::up(broker.settings()));
    let large: Bytes = (0..3_000_000u32).map(|n| (n / 7) as u8).collect();
    let mut want: Vec<Bytes> = (0..500).map(|n| Bytes::from(format!("{n}"))).collect();
    want.push(large.clone());
    want.extend((500..1000).map(|n| Bytes::from(format!("{n}"))));
    want.push(Bytes::new());
    for body in &want {
        a.say(To::All, body.clone());
    }
    a.say(To::Host(b.id), large.clone());
    let heard = b.hears(want.len() + 1);
    let (direct, all): (Vec<_>, Vec<_>) =
        b.frames().into_iter().partition(|(header, _)| header.direct);
    assert!(all.iter().map(|(_, body)| body).eq(&want), "{} bodies", heard.len());
    assert!(direct[0].1 == large && !direct[0].0.more);
    let counts = b.link.counts();
    assert_eq!((counts.lost, counts.repeated, counts.foreign), (0, 0, 0), "{counts:?}");
    assert!(counts.received.bytes > 6_000_000, "{counts:?}");
}

fn a_bus_may_come_later_and_come_back(engine: Engine) {
    let mut broker = Broker::new(engine, "");
    let (a, b) = (Host::new(broker.settings()), Host::new(broker.settings()));
    a.stays_down(&["no connection to 127.0.0.1:", "refused"]);
    // What does not go out soon does not go out late, but for what is said of workers.
    a.link.send(To::All, About { kind: Kind::Left, ..about(1) }, Bytes::new());
    a.say(To::All, "stale");
    a.say(To::Host(b.id), "stale");
    assert!(until(|| a.link.counts().dropped.frames == 2), "{:?}", a.link.counts());
    assert_eq!(a.link.counts().queued, HEADER);
    // An error that stays is said once.
    let said = a.log.text().matches("no other host is reached: no connection").count();
    assert_eq!(said, 1, "{}", a.log.text());
    broker.start();
    for round in 1..=3 {
        a.comes_up();
        b.comes_up();
        a.is_heard_by(&b);
        b.is_heard_by(&a);
        broker.kill();
        assert!(until(|| !a.is_up() && !b.is_up()));
        assert_eq!(a.link.counts().connections, round);
        broker.start();
    }
    a.comes_up();
    let ups: Vec<Event> = a.events.lock().expect("no panic").clone();
    let mut ups: Vec<&Event> =
        ups.iter().filter(|event| !matches!(event, Event::Frame(..))).collect();
    ups.dedup(); // that it is still down, for another reason
    let turns = [Event::Down, Event::Up];
    assert!(ups.iter().copied().eq(turns.iter().cycle().take(8)), "{ups:?}");
    assert_eq!((b.link.counts().repeated, a.link.counts().queued), (0, 0));
    assert!(b.frames().iter().all(|(_, body)| body != "stale"));
    // That the connection has ended is one thing, that there is none to be had is another.
    broker.kill();
    let told_twice = || a.events.lock().expect("no panic").ends_with(&[Event::Down, Event::Down]);
    assert!(until(told_twice), "{}", a.why());
    assert!(a.why().contains("refused"), "{}", a.why());
}

fn a_slow_bus_costs_the_oldest_packets(engine: Engine) {
    let (began, limit) = (Instant::now(), 1 << 20);
    let broker = Broker::started(engine, "");
    let a = Host::up(Settings { queue: limit, ..broker.settings() });
    let b = Host::up(broker.settings());
    a.is_heard_by(&b);
    broker.signal(Signal::STOP);
    let body = Bytes::from(vec![0; 64 << 10]);
    // Faster than that it takes nothing, so that the system's buffers are full soon.
    assert!(until(|| {
        a.say(To::All, body.clone());
        let counts = a.link.counts();
        assert!(counts.queued <= limit, "{counts:?}");
        counts.dropped.frames > 100
    }));
    assert!(until(|| !a.is_up() && !b.is_up()));
    broker.signal(Signal::CONT);
    a.comes_up();
    b.comes_up();
    a.is_heard_by(&b);
    b.is_heard_by(&a);
    assert!(until(|| b.link.counts().lost > 0), "{:?}", b.link.counts());
    assert_eq!(b.link.counts().repeated, 0);
    assert_eq!(a.link.counts().queued, 0);
    // It is said, but not more often than every ten seconds.
    let said = a.log.text().matches("the bus did not take").count() as u64;
    assert!(said > 0 && said <= 1 + began.elapsed().as_secs() / 10, "{}", a.log.text());
}

fn only_the_right_password_lets_in(engine: Engine) {
    let (named, token) = match engine {
        Engine::Nats => {
            ("authorization { user: shop, password: hush }", "authorization { token: hush }")
        }
        Engine::Redis => ("user shop on >hush &* +@all\nuser default off", "requirepass hush"),
    };
    let broker = Broker::started(engine, named);
    Host::new(broker.settings()).stays_down(&["does not let us in", "none is configured"]);
    for secret in ["shop:tell", "other:hush", "hush"] {
        let host = Host::new(with_secret(&broker.settings(), secret));
        host.stays_down(&["does not let us in", "check the bus' credential"]);
        host.tells_nothing(&["hush", "tell"]);
    }
    let (a, b) = (with_secret(&broker.settings(), "shop:hush\n"), broker.settings());
    let (a, b) = (Host::up(a), Host::up(with_secret(&b, "shop:hush")));
    a.is_heard_by(&b);
    a.tells_nothing(&["hush"]);
    let broker = Broker::started(engine, token);
    Host::new(broker.settings()).stays_down(&["does not let us in"]);
    Host::new(with_secret(&broker.settings(), "tell")).stays_down(&["does not let us in"]);
    Host::up(with_secret(&broker.settings(), "hush\n"));
}

fn only_the_right_certificates_are_accepted(engine: Engine) {
    let pem = |folder: &Path, name: &str| fs::read(folder.join(name)).expect("just made");
    let broker = Broker::encrypted(engine, false);
    let (a, b) = (Host::up(broker.tls()), Host::up(broker.tls()));
    a.is_heard_by(&b);
    b.is_heard_by(&a);
    let other = TempDir::new().expect("a temporary folder");
    certificate(other.path());
    let stranger = Some(pem(other.path(), "cert.pem"));
    let host = Host::new(Settings { ca: stranger, ..broker.tls() });
    host.stays_down(&["TLS with localhost:", "name the certificate"]);
    Host::new(Settings { ca: None, ..broker.tls() })
        .stays_down(&["TLS with", "name the certificate"]);

    let broker = Broker::encrypted(engine, true);
    Host::new(broker.tls()).stays_down(&["TLS with", "client certificate"]);
    let key = pem(broker.folder(), "key.pem");
    let client = Some((pem(broker.folder(), "cert.pem"), key.clone()));
    let shown = Settings { client, ..broker.tls() };
    shown.check().expect("all fits");
    Host::up(shown);
    let client = Some((pem(other.path(), "cert.pem"), pem(other.path(), "key.pem")));
    Host::new(Settings { client, ..broker.tls() }).stays_down(&["TLS with"]);

    // What is wrong with a file is told before, too.
    let [no_ca, no_key, no_pair] = [
        Settings { ca: Some(b"none".to_vec()), ..broker.tls() },
        Settings { client: Some((pem(other.path(), "cert.pem"), b"".to_vec())), ..broker.tls() },
        Settings { client: Some((pem(other.path(), "cert.pem"), key)), ..broker.tls() },
    ];
    for (settings, words) in [
        (no_ca, "the CA's certificate of the bus can't be used"),
        (no_key, "the client's key of the bus can't be used"),
        (no_pair, "the client certificate of the bus can't be used"),
    ] {
        let error = settings.check().expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
        Host::new(settings).stays_down(&[words]);
    }
}

fn what_is_forbidden_is_told(engine: Engine) {
    let config = match engine {
        Engine::Nats => {
            "authorization { users: [{ user: shop, password: hush, \
             permissions: { publish: \"other.>\", subscribe: \"cohortd.>\" } }] }"
        }
        Engine::Redis => "user shop on >hush &other.* +@all",
    };
    let broker = Broker::started(engine, config);
    let host = Host::new(with_secret(&broker.settings(), "shop:hush"));
    host.stays_down(&["forbids it", "cohortd.test."]);
}

fn strangers_are_ignored(engine: Engine) {
    let broker = Broker::started(engine, "");
    let (a, b) = (Host::up(broker.settings()), Host::up(broker.settings()));
    let all = || "cohortd.test.all".to_owned();
    let own = |host: &Host| format!("cohortd.test.host.{:016x}", host.id.0);
    let header = |host: HostId, seq: u64| Header {
        kind: Kind::Packet,
        more: false,
        rest: false,
        direct: false,
        framing: Framing::Advanced,
        host,
        seq,
        worker: WorkerId(1),
    };
    let frame = |header: Header| header.before(b"forged").to_vec();
    let mut later = frame(header(HostId(1), 0));
    later[3] += 1;
    let wrong = [
        Vec::new(),
        b"chd".to_vec(),
        b"hello".to_vec(),
        vec![0; 1 << 20],
        vec![0xff; 64],
        later,
        // For one alone, but said to all.
        frame(Header { direct: true, ..header(HostId(1), 0) }),
        // In our name, what we have not said.
        frame(header(a.id, 1 << 40)),
        frame(Header { kind: Kind::Beat, ..header(a.id, 0) }),
    ];
    let count = wrong.len() as u64;
    broker.publish(&wrong.map(|body| (all(), body)));
    // For all, but said to one alone; in our name to us.
    let to_a = [header(HostId(1), 0), Header { direct: true, ..header(a.id, 0) }];
    broker.publish(&to_a.map(|header| (own(&a), frame(header))));
    assert!(until(|| a.link.counts().foreign >= count + 2), "{:?}", a.link.counts());
    assert_eq!(a.link.counts().foreign, count + 2);
    assert!(a.frames().is_empty());
    // One forged frame does not make what comes from the real one late.
    b.is_heard_by(&a);
    let foreign = a.link.counts().foreign;
    broker.publish(&[(all(), frame(header(b.id, 1 << 40)))]);
    assert!(until(|| a.link.counts().foreign > foreign));
    b.is_heard_by(&a);
    // What has come before does not come again.
    let seen = a.frames()[0].0;
    broker.publish(&[(all(), frame(seen))]);
    assert!(until(|| a.link.counts().repeated == 1));
    assert!(a.frames().iter().all(|(_, body)| body != "forged"), "{:?}", a.frames());
    assert!(a.is_up() && a.link.counts().connections == 1);
}

/// Of NATS, which can be told that what one user says goes elsewhere, and what another says comes in
/// its place.
#[test]
fn the_echo_of_a_stranger_is_none() {
    let config = "accounts {
        HOSTS: {
            users: [{ user: shop, password: hush }]
            mappings: { \"cohortd.test.all\": \"elsewhere\" }
            imports: [{ stream: { account: STRANGERS, subject: \"cohortd.test.all\" } }]
        }
        STRANGERS: {
            users: [{ user: stranger, password: none }]
            exports: [{ stream: \"cohortd.test.all\" }]
        }
    }
    no_auth_user: stranger";
    let broker = Broker::started(Engine::Nats, config);
    let host = Host::new(with_secret(&broker.settings(), "shop:hush"));
    let echo = Header {
        kind: Kind::Beat,
        more: false,
        rest: false,
        direct: false,
        framing: Framing::Advanced,
        host: host.id,
        seq: 0,
        worker: WorkerId(0),
    };
    let frame = echo.before(&[7; 8]).to_vec();
    let forges = || {
        broker.publish(&[("cohortd.test.all".to_owned(), frame.clone())]);
        host.why().contains("no answer")
    };
    assert!(until(forges), "{}", host.why());
    assert_eq!(host.link.counts().connections, 0);
}

fn what_is_said_last_goes_out(engine: Engine) {
    let broker = Broker::started(engine, "");
    let (mut a, b) = (Host::up(broker.settings()), Host::up(broker.settings()));
    for n in 0..1000 {
        a.say(To::All, format!("{n}"));
    }
    let bye = About { kind: Kind::Bye, ..about(0) };
    a.link.send(To::All, bye, Bytes::new());
    a.end();
    b.hears(1001);
    assert_eq!(b.frames()[1000].0.kind, Kind::Bye);
    assert!(matches!(a.link.state(), State::Down { .. }));
}

/// The first of several servers is not there.
#[test]
fn another_server_is_taken() {
    let broker = Broker::started(Engine::Nats, "");
    let url = format!("nats://127.0.0.1:{},127.0.0.1:{}", free_port(), broker.port());
    let host = Host::up(settings(&url));
    assert_eq!(host.link.counts().connections, 1);
}

#[test]
fn a_server_that_takes_only_small_messages_is_told() {
    let broker = Broker::started(Engine::Nats, "max_payload: 65536");
    Host::new(broker.settings()).stays_down(&["65536", "raise its max_payload"]);
}

#[test]
fn keys_of_nats_let_in() {
    let user = KeyPair::new_user();
    let seed = user.seed().expect("it has one");
    let users = format!("authorization {{ users: [{{ nkey: {} }}] }}", user.public_key());
    let broker = Broker::started(Engine::Nats, &users);
    Host::up(with_secret(&broker.settings(), &format!("{seed}\n")));
    let other = KeyPair::new_user().seed().expect("it has one");
    let host = Host::new(with_secret(&broker.settings(), &other));
    host.stays_down(&["does not let us in"]);
    host.tells_nothing(&[&other]);

    let (operator, account) = (KeyPair::new_operator(), KeyPair::new_account());
    let trusted = token(&operator, &operator, "operator");
    let (name, trust) = (account.public_key(), token(&operator, &account, "account"));
    let config = format!(
        "operator: \"{trusted}\"\nresolver: MEMORY\nresolver_preload: {{ {name}: \"{trust}\" }}"
    );
    let broker = Broker::started(Engine::Nats, &config);
    let creds = |by: &KeyPair| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            token(by, &user, "user")
        )
    };
    Host::up(with_secret(&broker.settings(), &creds(&account)));
    let host = Host::new(with_secret(&broker.settings(), &creds(&KeyPair::new_account())));
    host.stays_down(&["does not let us in"]);
}

/// Redis has no keys, and a damaged one is known without the bus.
#[test]
fn secrets_have_to_fit() {
    let seed = KeyPair::new_user().seed().expect("it has one");
    let error = with_secret(&settings("redis://localhost"), &seed).check().expect_err("of NATS");
    assert!(error.to_string().contains("is a key of NATS"), "{error}");
    let mut damaged = seed.clone().into_bytes();
    damaged[20] = if damaged[20] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).expect("ASCII");
    let error = with_secret(&settings("nats://localhost"), &damaged).check().expect_err("damaged");
    assert!(error.to_string().contains("is not whole"), "{error}");
    with_secret(&settings("nats://localhost"), &seed).check().expect("all fits");
    with_secret(&settings("redis://localhost"), "shop:hush").check().expect("all fits");
}

/// A claim of NATS: who somebody is, signed by who says so.
fn token(by: &KeyPair, of: &KeyPair, kind: &str) -> String {
    let limits = match kind {
        "account" => {
            r#","limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1}"#
        }
        "user" => r#","subs":-1,"data":-1,"payload":-1"#,
        _ => "",
    };
    let claims = format!(
        r#"{{"jti":"1","iat":1,"iss":"{}","name":"test","sub":"{}","nats":{{"type":"{kind}","version":2{limits}}}}}"#,
        by.public_key(),
        of.public_key()
    );
    let head = base64(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let text = format!("{head}.{}", base64(claims.as_bytes()));
    let signature = by.sign(text.as_bytes()).expect("it has a seed");
    format!("{text}.{}", base64(&signature))
}

/// As in URLs, without `=`.
fn base64(bytes: &[u8]) -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        let bits = bits << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            out.push(letters[(bits >> (18 - 6 * at) & 63) as usize].into());
        }
    }
    out
}
