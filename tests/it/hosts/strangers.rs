//! Others on the bus than hosts of this version: somebody who says whatever comes to mind, and hosts
//! of a later cohortd.
//!
//! Who may publish there can speak as a host. What that does has to be over soon.

use std::collections::BTreeMap;

use bytes::Bytes;
use cohortd::relay::bus::wire::{HEADER, Header, HostId, Kind};
use cohortd::relay::bus::{About, Engine, To};
use cohortd::worker::WorkerId;
use cohortd::worker::wire::Framing;
use serde_json::{Value, json};

use super::sio;
use super::talk::Talk;
use crate::app::{App, until};
use crate::broker::{Broker, ENGINES};
use crate::bus::Host as Link;
use crate::control::status;
use crate::raw::anonymous;

const ALL: &str = "cohortd.test.all";

/// What of bodies may be held for strangers, and what it may take besides, in KiB.
const HELD: usize = 128 << 10;
const BESIDES: usize = 64 << 10;

fn host(broker: &Broker, name: &str, more: &str) -> App {
    let relay = format!(
        "{more}[relay]\nbus = \"{}\"\nhost = \"{name}\"\nchannel = \"cohortd.test\"\n",
        broker.url()
    );
    sio("adapter03").more(&relay).start()
}

/// A number of the bus, as a host shows it.
fn figure(app: &App, key: &str) -> u64 {
    status(app)["bus"][key].as_u64().expect("a number")
}

fn knows(app: &App, names: &[&str]) -> bool {
    let known = status(app)["bus"]["hosts"].clone();
    let known: Vec<Value> = known.as_array().cloned().unwrap_or_default();
    known.iter().map(|host| host["name"].as_str().unwrap_or_default()).eq(names.iter().copied())
}

/// What a host says of itself to whoever asks.
fn card(ear: &Link, name: &str) -> (HostId, Value) {
    let mut found = None;
    let is_told = until(|| {
        found = ear.frames().into_iter().find_map(|(header, body)| {
            let is_card = header.kind == Kind::Hello;
            let card: Value = is_card.then(|| serde_json::from_slice(&body).ok())??;
            (card["name"] == name).then_some((header.host, card))
        });
        found.is_some()
    });
    assert!(is_told, "{name}: {:?}", ear.frames());
    found.expect("just looked at")
}

fn header(kind: Kind, host: u64, seq: u64) -> Header {
    Header {
        kind,
        more: false,
        rest: false,
        direct: false,
        framing: Framing::Advanced,
        host: HostId(host),
        seq,
        worker: WorkerId(0),
    }
}

fn hello(host: u64, seq: u64, card: &Value) -> Vec<u8> {
    header(Kind::Hello, host, seq).before(card.to_string().as_bytes()).to_vec()
}

/// To all.
fn publish(broker: &Broker, frames: Vec<Vec<u8>>) {
    let messages: Vec<_> = frames.into_iter().map(|frame| (ALL.to_owned(), frame)).collect();
    broker.publish(&messages);
}

fn rage(engine: Engine) {
    let broker = Broker::started(engine, "");
    let apps = ["left", "right"].map(|name| host(&broker, name, ""));
    apps[0].wait_for("is there");
    apps[1].wait_for("is there");
    let workers: Vec<BTreeMap<usize, i32>> = apps.iter().map(App::workers).collect();
    let memory = apps.each_ref().map(|app| anonymous(app.pid() as i32));
    let urls = apps.each_ref().map(App::url).join(",");
    let mut talk = Talk::start(&[], &urls);

    // It listens, and asks who they are.
    let ear = Link::up(broker.settings());
    let ask = About { kind: Kind::Ask, framing: Framing::Json, worker: WorkerId(0) };
    ear.link.send(To::All, ask, Bytes::new());
    let ids = ["left", "right"].map(|name| card(&ear, name).0);
    let packets = || {
        let is_left = |(header, _): &(Header, Bytes)| {
            header.kind == Kind::Packet && !header.direct && header.host == ids[0]
        };
        ear.frames().into_iter().filter(is_left).collect::<Vec<_>>()
    };
    assert!(until(|| packets().len() >= 20), "it listens");

    // What is no frame, frames that are not whole, those of no host and of a host's own name, what
    // was said before, and numbers without measure.
    let heard = packets();
    let real: Vec<Vec<u8>> = heard.iter().map(|(it, body)| it.before(body).to_vec()).collect();
    let of =
        |host: HostId, (it, body): &(Header, Bytes)| Header { host, ..*it }.before(body).to_vec();
    let mut garbage = vec![b"chd".to_vec(), b"hello".to_vec(), vec![0; 1 << 20], vec![0xff; 64]];
    garbage.extend((0..HEADER).map(|length| real[0][..length].to_vec()));
    let count = garbage.len() as u64;
    publish(&broker, garbage);
    publish(&broker, real.clone());
    publish(&broker, heard.iter().map(|it| of(HostId(77), it)).collect());
    let counts = [u64::MAX, 1 << 40].map(|seq| header(Kind::Packet, ids[0].0, seq));
    publish(&broker, counts.map(|it| it.before(&heard[0].1).to_vec()).to_vec());
    let own = format!("cohortd.test.host.{:016x}", ids[0].0);
    let direct = |host| Header { direct: true, ..header(Kind::Packet, host, 9) };
    let to_itself = [ids[0].0, 78].map(|host| direct(host).before(&heard[0].1).to_vec());
    broker.publish(&to_itself.map(|frame| (own.clone(), frame)));
    for app in &apps {
        assert!(until(|| figure(app, "foreign") >= count + 2), "{}", status(app));
    }
    let replayed = real.len() as u64;
    assert!(until(|| figure(&apps[1], "duplicates") == replayed), "{}", status(&apps[1]));

    // Bodies of which the end never comes. No faster than they are taken: a bus ends whoever is slow.
    let part = vec![0; 256 << 10];
    let fakes = |chunk: u64| (0..32).map(move |n| 50_000 + 32 * chunk + n);
    for chunk in 0..31 {
        let before = apps.each_ref().map(|app| figure(app, "foreign"));
        let begin = |host| Header { more: true, ..header(Kind::Packet, host, 0) };
        publish(&broker, fakes(chunk).map(|host| begin(host).before(&part).to_vec()).collect());
        publish(&broker, vec![b"mark".to_vec()]);
        for (app, before) in apps.iter().zip(before) {
            assert!(until(|| figure(app, "foreign") > before), "{}", status(app));
        }
    }
    let grown = || {
        let now = apps.each_ref().map(|app| anonymous(app.pid() as i32));
        let grown = now.iter().zip(memory).map(|(now, before)| now.saturating_sub(before));
        grown.max().expect("there are two")
    };
    let held = grown();
    assert!(held <= HELD + BESIDES, "{held} KiB");
    // Hosts that are none: they say who they are, or who they can't be, or only beat.
    let fake = |n: u64| json!({ "name": format!("fake{n}"), "number": 7, "version": "0.1.0" });
    publish(&broker, (0..31).flat_map(fakes).map(|host| hello(host, 1, &fake(host))).collect());
    let long = "x".repeat(60_000);
    let too_many: Vec<Value> = (0..50_000).map(|n| json!([n, {}])).collect();
    let wrong = [
        json!({ "name": long, "number": 7, "version": "1" }),
        json!({ "name": "a\nb", "number": 7, "version": "1" }),
        json!({ "name": "a", "number": 7, "version": long }),
        json!({ "name": "a", "number": 1 << 20, "version": "1" }),
        json!({ "name": "many", "number": 7, "version": "1", "workers": too_many }),
    ];
    publish(&broker, (40_000..).zip(&wrong).map(|(host, card)| hello(host, 0, card)).collect());
    let beat = |host| header(Kind::Beat, host, 0).before(b"").to_vec();
    publish(&broker, (1000..11_000).map(beat).collect());
    publish(&broker, (20_000..30_000).map(|host| hello(host, 0, &fake(host))).collect());
    for (app, name) in apps.iter().zip(["right", "left"]) {
        assert!(until(|| knows(app, &[name])), "{}\n{}", status(app), app.log());
        assert_eq!(figure(app, "reconnects"), 0, "{}", app.log());
    }

    // Deaths that nobody died, numbers that are used up, and somebody who takes a host's place: what
    // can be believed does harm, and none that stays.
    talk.begin();
    let last =
        |ear: &Link| ear.frames().iter().filter(|it| it.0.host == ids[0]).map(|it| it.0.seq).max();
    let next = last(&ear).expect("it was heard") + 500;
    let worker = heard[0].0.worker;
    let left = Header { worker, ..header(Kind::Left, ids[0].0, next) };
    let speaks = json!([[7, { "dialect": "uid", "uids": [["fake", "/"]] }]]);
    let thief = json!({
        "name": "thief", "number": 7, "version": "1", "follows": ids[1].0, "workers": speaks,
    });
    publish(
        &broker,
        vec![
            left.before(b"").to_vec(),
            header(Kind::Bye, ids[0].0, next + 1).before(b"").to_vec(),
            header(Kind::Beat, ids[0].0, next + 900_000).before(b"").to_vec(),
        ],
    );
    let mut said = 0..;
    let is_there = until(|| {
        publish(&broker, said.next().map(|n| hello(90_000, n, &thief)).into_iter().collect());
        apps[0].log().contains("host=\"thief\"")
    });
    assert!(is_there, "{}", apps[0].log());
    let settled = talk.end();
    assert_eq!(settled["settled"], true, "{settled}\n{}\n{}", apps[0].log(), apps[1].log());
    for (app, name) in apps.iter().zip(["right", "left"]) {
        assert!(until(|| knows(app, &[name])), "{}\n{}", status(app), app.log());
    }
    let account = talk.account();
    eprintln!("{engine:?}: {account}");
    for key in ["twice", "lost", "lostHere"] {
        assert_eq!(account[key], 0, "{account}\n{}\n{}", apps[0].log(), apps[1].log());
    }
    for (app, workers) in apps.iter().zip(workers) {
        assert_eq!(app.workers(), workers, "{}", app.log());
    }
    eprintln!("{engine:?}: {held} KiB more with parts of bodies, {} KiB in the end", grown());
    assert!(grown() <= HELD + BESIDES, "{} KiB", grown());
}

#[test]
fn strangers_on_the_bus_do_no_harm_that_stays() {
    for engine in ENGINES {
        rage(engine);
    }
}

/// Frames as a later cohortd may write them: a longer header, flags and kinds that nobody knows here.
struct Later<'a> {
    broker: &'a Broker,
    seq: u64,
}

impl Later<'_> {
    const ID: u64 = 4711;

    fn frame(&mut self, kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let first = header(Kind::Packet, Later::ID, self.seq);
        let mut frame = Header { worker: WorkerId(1), ..first }.before(b"").to_vec();
        self.seq += 1;
        frame[4] = kind;
        frame[5] = flags | 0x80;
        frame[7] = HEADER as u8 + 8;
        frame.extend(b"whatever");
        frame.extend(body);
        frame
    }

    fn says(&mut self, kind: u8, flags: u8, body: &[u8]) {
        let frame = self.frame(kind, flags, body);
        publish(self.broker, vec![frame]);
    }

    /// Which has no number.
    fn beats(&mut self) {
        self.says(BEAT, 0, b"");
        self.seq -= 1;
    }
}

/// The bytes of kinds and flags that there are today.
const BEAT: u8 = 1;
const HELLO: u8 = 2;
const PACKET: u8 = 3;
const MORE: u8 = 1;
const JSON: u8 = 4;
const REST: u8 = 8;

fn mixes(engine: Engine) {
    let broker = Broker::started(engine, "");
    let app = host(&broker, "web", "serialization = \"json\"\n");
    let mut talk = Talk::start(&[], &app.url());
    let ear = Link::up(broker.settings());
    let mut later = Later { broker: &broker, seq: 0 };
    let workers = json!([[1, { "dialect": "uid", "uids": [["later", "/"]], "speaks": "more" }]]);
    let card = json!({
        "name": "later", "number": 9, "version": "9.9.9", "workers": workers, "knows": { "of": "more" },
    });
    later.says(HELLO, 0, card.to_string().as_bytes());
    let is_known = until(|| {
        later.beats();
        knows(&app, &["later"])
    });
    assert!(is_known, "{}", app.log());
    // The app's own packets are as those of all versions.
    let broadcast = || {
        ear.frames().into_iter().find_map(|(header, body)| {
            let is_packet = header.kind == Kind::Packet;
            let packet: Value = is_packet.then(|| serde_json::from_slice(&body).ok())??;
            (packet["data"]["packet"]["data"][0] == "all").then_some(packet)
        })
    };
    let is_heard = until(|| {
        later.beats();
        broadcast().is_some()
    });
    assert!(is_heard, "{:?}", ear.frames());
    let mut packet = broadcast().expect("just seen");
    packet["uid"] = json!("later");
    packet["data"]["packet"]["data"][1] = json!("from the future");
    let packet = format!("{packet}\n");

    let (half, rest) = packet.split_at(packet.len() / 2);
    later.says(200, 0, b"who knows");
    later.says(201, MORE, b"in two");
    later.says(201, REST, b" parts");
    later.says(PACKET, JSON | MORE, half.as_bytes());
    later.says(PACKET, JSON | REST, rest.as_bytes());
    let mut other = later.frame(PACKET, JSON, packet.as_bytes());
    later.seq -= 1; // what numbers mean there is not known
    other[3] += 1;
    publish(&broker, vec![other]);
    let mut all = Vec::new();
    let heard = until(|| {
        all = talk.heard("from the future");
        all.iter().all(|times| *times > 0)
    });
    assert!(heard && !all.is_empty(), "{all:?}\n{}", app.log());
    assert!(until(|| figure(&app, "foreign") >= 4), "{}", status(&app));
    later.beats();
    assert!(until(|| knows(&app, &["later"])), "{}", app.log());
    let shown = &status(&app)["bus"];
    assert_eq!((&shown["foreign"], &shown["lost"]), (&json!(4), &json!(0)), "{shown}");
    assert_eq!(shown["hosts"][0]["version"], "9.9.9", "{shown}");
    assert_eq!(shown["hosts"][0]["workers"], 1, "{shown}");
    assert_eq!(app.log().matches("has a later cohortd").count(), 1, "{}", app.log());
    assert_eq!(talk.heard("from the future"), vec![1; all.len()]);
    let account = talk.account();
    assert_eq!((&account["twice"], &account["lost"]), (&json!(0), &json!(0)), "{account}");
}

#[test]
fn a_later_cohortd_is_understood_where_it_can_be() {
    for engine in ENGINES {
        mixes(engine);
    }
}
