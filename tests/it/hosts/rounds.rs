//! Faults of hosts by a seed, round after round, while clients of both talk all the time: a worker,
//! a cohortd or the bus is killed, a cohortd or the bus stands still, cables are cut; one of these or
//! two at once.
//! Nothing may come twice, nothing be lost outside of the faults, everybody has to know everybody
//! soon after them, and memory is bounded.
//!
//! `HOSTS_ROUNDS` says how many rounds there are on each bus (4), `CHAOS_SEED` which faults.

use std::fmt;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use cohortd::relay::bus::Engine;
use rustix::process::Signal;

use super::talk::Talk;
use super::{Hosts, SILENCE, sio};
use crate::app::{App, cohortctl, kill, until};
use crate::chaos::decisions::Random;
use crate::chaos::{any_seed, environment};
use crate::control::status;
use crate::raw::{anonymous, peak};

/// Rounds, for an ordinary run of the tests.
const FEW: u64 = 4;

/// The longest that a fault takes, in ms.
const LONGEST: u64 = 5000;

/// The second of two begins at most so long after the first, in ms.
const BETWEEN: u64 = 1500;

/// How soon counts are to be right after faults, in ms. How often it took longer is told; what is an
/// error is to take longer than [`SILENCE`] when hosts have the bus and clients are connected.
const GOAL: u64 = 2000;

/// `[relay] queue`, in KiB.
const QUEUE: usize = 4096;

/// What is said on each host to a bus that stands still, in MiB.
const FLOOD: usize = 32;

/// What floods may take besides the queue, in KiB: frames on their way to and from workers, and what
/// the allocator gives back later. What is dropped is more than all that together.
const ON_ITS_WAY: usize = 40 << 10;

/// As often the bus stands still until so much was dropped, at most: a machine may have no time for it.
const STALLS: usize = 6;

/// What cohortd may have grown by in all rounds, in KiB.
const GROWTH: usize = 4 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// SIGKILL for a worker.
    Worker { host: usize, slot: usize },
    /// SIGKILL for a cohortd, and with it its workers, whose channels nobody keeps in the foreground.
    Cohortd { host: usize, ms: u64 },
    /// SIGSTOP for a cohortd.
    Pause { host: usize, ms: u64 },
    /// SIGKILL for the bus.
    Bus { ms: u64 },
    /// SIGSTOP for the bus.
    Stop { ms: u64 },
    /// Nothing passes between a host and the bus.
    Cut { host: usize, ms: u64 },
}

/// A moment in ms since the round's first fault, and what begins or ends then.
type Moment = (u64, Fault, bool);

impl Fault {
    fn decide(random: &mut Random) -> Fault {
        let (host, slot) = (random.below(2) as usize, random.below(2) as usize);
        let ms = random.below(LONGEST);
        match random.below(12) {
            0..2 => Fault::Worker { host, slot },
            2..4 => Fault::Cohortd { host, ms },
            4..6 => Fault::Pause { host, ms },
            6..8 => Fault::Bus { ms },
            8..10 => Fault::Stop { ms },
            _ => Fault::Cut { host, ms },
        }
    }

    /// Whether both are of the same thing, so that one would end the other.
    fn meets(self, other: Fault) -> bool {
        let of = |fault| match fault {
            Fault::Bus { .. } | Fault::Stop { .. } => 0,
            Fault::Worker { host, .. }
            | Fault::Cohortd { host, .. }
            | Fault::Pause { host, .. } => 1 + host,
            Fault::Cut { host, .. } => 3 + host,
        };
        of(self) == of(other)
    }

    /// One fault, or two, in the order in which they begin and end.
    fn round(random: &mut Random) -> Vec<Moment> {
        let first = Fault::decide(random);
        let mut faults = vec![(0, first)];
        if random.below(2) == 0 {
            let second = Fault::decide(random);
            if !first.meets(second) {
                faults.push((random.below(BETWEEN), second));
            }
        }
        let moments =
            |(at, fault): (u64, Fault)| [(at, fault, true), (at + fault.ms(), fault, false)];
        let mut moments: Vec<Moment> = faults.into_iter().flat_map(moments).collect();
        moments.sort_by_key(|(at, _, begins)| (*at, !begins));
        moments
    }

    fn ms(self) -> u64 {
        match self {
            Fault::Worker { .. } => 0,
            Fault::Cohortd { ms, .. }
            | Fault::Pause { ms, .. }
            | Fault::Bus { ms }
            | Fault::Stop { ms }
            | Fault::Cut { ms, .. } => ms,
        }
    }

    fn begin(self, hosts: &mut Hosts) {
        match self {
            Fault::Worker { host, slot } => {
                if let Some(pid) = hosts.apps[host].workers().get(&slot) {
                    kill("KILL", *pid);
                }
            }
            Fault::Cohortd { host, .. } => hosts.kill(host),
            Fault::Pause { host, .. } => hosts.apps[host].signal("STOP"),
            Fault::Bus { .. } => hosts.bus.kill(),
            Fault::Stop { .. } => hosts.bus.signal(Signal::STOP),
            Fault::Cut { host, .. } => hosts.net.cut(host),
        }
    }

    fn end(self, hosts: &mut Hosts) {
        match self {
            Fault::Worker { .. } => {}
            Fault::Cohortd { host, .. } => hosts.restart(host),
            Fault::Pause { host, .. } => hosts.apps[host].signal("CONT"),
            Fault::Bus { .. } => hosts.bus.start(),
            Fault::Stop { .. } => hosts.bus.signal(Signal::CONT),
            Fault::Cut { host, .. } => hosts.net.mend(host),
        }
    }
}

/// How long things took after faults, in ms.
#[derive(Default)]
struct Took(Vec<u64>);

impl fmt::Display for Took {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = |part: usize| sorted.get((sorted.len() * part / 100).min(sorted.len() - 1));
        let late = sorted.iter().filter(|ms| **ms > GOAL).count();
        let (half, most) = (at(50).copied(), sorted.last().copied());
        write!(f, "median {half:?} ms, most {most:?} ms, {late} of {} above {GOAL}", sorted.len())
    }
}

struct Rounds {
    hosts: Hosts,
    talk: Talk,
    /// From the end of the faults until counts were right.
    healed: Took,
    /// From when hosts had the bus and clients were connected until counts were right.
    counted: Took,
    /// A process, what it had after its first round, and the most after a later one, in KiB.
    memory: Vec<(u32, usize, usize)>,
}

impl Rounds {
    fn run(&mut self, moments: &[Moment]) {
        self.talk.begin();
        let begun = Instant::now();
        for (at, fault, begins) in moments {
            let then = Duration::from_millis(*at);
            thread::sleep(then.saturating_sub(begun.elapsed()));
            if *begins {
                fault.begin(&mut self.hosts);
            } else {
                fault.end(&mut self.hosts);
            }
        }
        self.settle(&format!("{moments:?}"));
        for app in &self.hosts.apps {
            let now = anonymous(app.pid() as i32);
            match self.memory.iter_mut().find(|(pid, ..)| *pid == app.pid()) {
                Some((_, _, most)) => *most = now.max(*most),
                None => self.memory.push((app.pid(), now, now)),
            }
        }
    }

    /// Everybody knows everybody again.
    fn settle(&mut self, what: &str) {
        let Rounds { hosts, talk, .. } = self;
        let began = Instant::now();
        let (settled, linked) = talk.end_while(|| {
            let up = |app: &App| status(app)["bus"]["up"] == true;
            until(|| hosts.apps.iter().all(up)).then(|| began.elapsed().as_millis() as u64)
        });
        let fail = |why: &str| -> ! { panic!("{what}: {why}: {settled}\n{}", hosts.logs()) };
        let Some(linked) = linked else { fail("not linked") };
        if settled["settled"] != true {
            fail("not settled");
        }
        let healed = settled["ms"].as_u64().expect("a number");
        let connected = settled["connected"].as_u64().expect("a number");
        let counted = healed.saturating_sub(linked.max(connected));
        eprintln!("{what}: linked {linked} ms, connected {connected} ms, counted {healed} ms");
        if counted > SILENCE {
            fail("too late");
        }
        let other = |host: usize| format!("host{}", 1 - host);
        let knows = |host: usize| {
            let seen = status(&hosts.apps[host])["bus"]["hosts"].clone();
            seen.as_array().is_some_and(|all| all.len() == 1)
                && seen[0]["name"] == other(host).as_str()
                && seen[0]["workers"] == 2
        };
        if !until(|| (0..2).all(knows)) {
            fail("not known");
        }
        let listed = cohortctl().args(["ls", "--hosts"]).output().expect("cohortctl starts");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        for (host, app) in hosts.apps.iter().enumerate() {
            let is_it = |line: &str| {
                let words: Vec<&str> = line.split_whitespace().collect();
                words.contains(&app.name()) && words.contains(&other(host).as_str())
            };
            assert!(listed.lines().any(is_it), "{what}: {listed}");
            let bus = &status(app)["bus"];
            assert_eq!(bus["foreign"], 0, "{bus}");
        }
        self.healed.0.push(healed);
        self.counted.0.push(counted);
    }

    /// Much more than the queue holds is said while the bus stands still, until what was dropped would
    /// be seen if it was still there.
    fn flood(&mut self) {
        let peaks = |hosts: &Hosts| [0, 1].map(|host| peak(hosts.apps[host].pid() as i32));
        let drops = |hosts: &Hosts| {
            [0, 1].map(|host| {
                let dropped = &status(&hosts.apps[host])["bus"]["dropped"]["bytes"];
                dropped.as_u64().expect("a number") as usize >> 10
            })
        };
        for app in &self.hosts.apps {
            fs::write(format!("/proc/{}/clear_refs", app.pid()), "5").expect("the peak is reset");
        }
        let (before, first) = (peaks(&self.hosts), drops(&self.hosts));
        let bound = QUEUE + ON_ITS_WAY;
        let dropped = |hosts: &Hosts| [0, 1].map(|host| drops(hosts)[host] - first[host]);
        for _ in 0..STALLS {
            self.talk.begin();
            self.hosts.bus.signal(Signal::STOP);
            self.talk.flood(FLOOD);
            self.hosts.bus.signal(Signal::CONT);
            self.settle("flood");
            if dropped(&self.hosts).iter().all(|kib| *kib > bound + QUEUE) {
                break;
            }
        }
        let now = peaks(&self.hosts);
        let grown = [0, 1].map(|host| now[host].saturating_sub(before[host]));
        eprintln!("{:?} KiB dropped, {grown:?} KiB more at most", dropped(&self.hosts));
        assert!(grown.iter().all(|kib| *kib <= bound), "{grown:?} KiB for a queue of {QUEUE}");
    }
}

fn faults_by_a_seed(bus: Engine) {
    let (seed, rounds) = (any_seed(), environment("HOSTS_ROUNDS").unwrap_or(FEW));
    eprintln!("=== CHAOS_SEED={seed} HOSTS_ROUNDS={rounds} {bus:?}");
    let mut random = Random::new(seed);
    let queue = format!("queue = \"{QUEUE}K\"\n");
    let hosts = Hosts::start_with(2, bus, &sio("adapter03"), |_| queue.clone());
    let talk = Talk::start(&super::inside(&hosts.net.middle()), &hosts.urls());
    let (healed, counted, memory) = Default::default();
    let mut all = Rounds { hosts, talk, healed, counted, memory };
    for _ in 0..rounds {
        all.run(&Fault::round(&mut random));
    }
    all.flood();
    let Rounds { hosts, talk, healed, counted, memory } = all;
    let account = talk.account();
    eprintln!("{bus:?}, seed {seed}: {account}");
    eprintln!("counts after the faults: {healed}");
    eprintln!("counts after all were linked and connected: {counted}");
    eprintln!("memory, in KiB: {memory:?}");
    let logs = || hosts.logs();
    assert!(account["judged"].as_u64() > Some(500), "{account}");
    assert_eq!(account["twice"], 0, "{account}\n{}", logs());
    assert_eq!(account["lostHere"], 0, "{account}\n{}", logs());
    assert_eq!(account["lost"], 0, "{account}\n{}", logs());
    for (_, first, most) in memory {
        assert!(most <= first + GROWTH, "from {first} to {most} KiB\n{}", logs());
    }
}

#[test]
fn chaos_is_survived_on_nats() {
    faults_by_a_seed(Engine::Nats);
}

#[test]
fn chaos_is_survived_on_redis() {
    faults_by_a_seed(Engine::Redis);
}

#[test]
fn rounds_are_what_their_seed_says() {
    let decide = |seed| {
        let mut random = Random::new(seed);
        (0..100).map(|_| Fault::round(&mut random)).collect::<Vec<_>>()
    };
    assert_eq!(decide(7), decide(7));
    assert_ne!(decide(7), decide(8));
    for moments in decide(7) {
        let begins = moments.iter().filter(|(_, _, begins)| *begins).count();
        assert!((1..=2).contains(&begins) && moments.len() == 2 * begins, "{moments:?}");
        assert!(moments.iter().all(|(at, ..)| *at <= LONGEST + BETWEEN), "{moments:?}");
    }
}
