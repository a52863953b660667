//! One app on several hosts, with a real bus between them: what is seen has to be what one host with
//! all the workers shows, and whatever happens to a host, a worker or the bus has to stay there.

#[cfg(all(feature = "nats", feature = "redis"))]
mod forward;
mod net;
mod rounds;
mod service;
#[cfg(all(feature = "nats", feature = "redis"))]
mod strangers;
#[cfg_attr(not(all(feature = "nats", feature = "redis")), allow(dead_code))]
mod talk;

use std::time::Duration;

use cohortd::relay::bus::Engine;
use serde_json::Value;

use crate::app::{App, Spec, client, client_through, cohortctl, free_port, kill, until};
use crate::balancer::Balancer;
use crate::broker::{Broker, ENGINES};
use crate::control::status;
use crate::raw::{Bare, Wire, get};

use net::{Net, inside};
use talk::Talk;

/// Some hosts, each with an app of its own, and the bus. What is first ends first.
struct Hosts {
    apps: Vec<App>,
    bus: Broker,
    specs: Vec<Spec>,
    net: Net,
}

impl Hosts {
    /// All run this, each as a host of its own.
    fn start(count: usize, bus: Engine, app: &Spec) -> Hosts {
        Hosts::start_with(count, bus, app, |_| String::new())
    }

    /// With more lines in `[relay]`, by each host's address.
    fn start_with(count: usize, bus: Engine, app: &Spec, more: impl Fn(&str) -> String) -> Hosts {
        let net = Net::new(count);
        let bus = Broker::through(bus, &Net::bus(), &inside(&net.middle()));
        let of_host = |host: usize| {
            let port = free_port();
            let address = format!("{}:{port}", net.address(host));
            let relay = format!(
                "[relay]\nbus = \"{}\"\nhost = \"host{host}\"\nchannel = \"test\"\n{}",
                bus.url(),
                more(&net.address(host))
            );
            app.clone().listen(&[&address]).more(&relay).through(&inside(&net.space(host)))
        };
        let specs: Vec<Spec> = (0..count).map(of_host).collect();
        let apps = specs.iter().map(Spec::start).collect();
        let hosts = Hosts { apps, bus, specs, net };
        for host in 0..count {
            hosts.apps[host].wait_for_times("is there", count - 1);
        }
        hosts
    }

    fn urls(&self) -> String {
        self.apps.iter().map(App::url).collect::<Vec<_>>().join(",")
    }

    /// Runs a client in the middle, where all hosts are reached.
    fn client(&self, script: &str, args: &[&str], env: &[(&str, &str)]) -> Value {
        let urls = self.urls();
        let all: Vec<&str> = std::iter::once(urls.as_str()).chain(args.iter().copied()).collect();
        client_through(&inside(&self.net.middle()), script, &all, env)
            .unwrap_or_else(|said| panic!("{said}\n{}", self.logs()))
    }

    fn logs(&self) -> String {
        self.apps.iter().map(|app| format!("--- {}\n{}\n", app.name(), app.log())).collect()
    }

    /// cohortd and everything of its host is killed.
    fn kill(&mut self, host: usize) {
        self.apps[host].signal("KILL");
        self.apps[host].wait();
    }

    fn restart(&mut self, host: usize) {
        self.apps[host] = self.specs[host].start();
    }
}

fn sio(adapter: &str) -> Spec {
    Spec::new("sio.js").env("STICKY", "sticky2").env("ADAPTER", adapter)
}

fn transcript(value: &Value) -> String {
    let steps = value["transcript"].as_array().expect("a transcript");
    steps.iter().map(|step| format!("{step}\n")).collect()
}

fn same_as_one_process(count: usize, bus: Engine, adapter: &str, skip: &str) {
    let env = [("SKIP", skip)];
    let single = Bare::start("sio.js");
    let url = format!("http://{}", single.address);
    let alone = client("clients/suite.js", &[&url], &env).unwrap_or_else(|said| panic!("{said}"));
    let hosts = Hosts::start(count, bus, &sio(adapter));
    let many = hosts.client("clients/suite.js", &["6", &(2 * count).to_string()], &env);
    assert_eq!(transcript(&many), transcript(&alone), "{count} hosts, {bus:?}, {adapter}");
}

#[test]
fn two_hosts_show_what_one_process_shows() {
    for bus in ENGINES {
        same_as_one_process(2, bus, "adapter03", "");
    }
}

#[test]
fn three_hosts_show_what_one_process_shows() {
    for bus in ENGINES {
        same_as_one_process(3, bus, "adapter03", "");
    }
}

#[test]
fn adapters_that_count_workers_work_across_hosts() {
    for bus in ENGINES {
        same_as_one_process(2, bus, "adapter02", "");
    }
    same_as_one_process(3, Engine::Nats, "adapter02", "");
    same_as_one_process(2, Engine::Redis, "adapter01", "acks");
}

#[test]
fn other_hosts_know_of_a_killed_worker_at_once() {
    for adapter in ["adapter03", "adapter02"] {
        let hosts = Hosts::start(2, Engine::Nats, &sio(adapter));
        let seen = hosts.client("clients/kill.js", &[], &[]);
        // Without our word it is the adapters' time-out of 5 s or more.
        assert!(seen["ms"].as_f64() < Some(1000.0), "{seen}");
        eprintln!("{adapter}: {seen}");
    }
}

/// Runs faults against hosts whose clients talk all the time. What is said outside of faults arrives
/// once, what is said on a host always arrives there, and nothing twice.
fn survives(bus: Engine, count: usize, faults: impl Fn(&mut Hosts, &mut Talk)) {
    let mut hosts = Hosts::start(count, bus, &sio("adapter03"));
    let mut talk = Talk::start(&inside(&hosts.net.middle()), &hosts.urls());
    faults(&mut hosts, &mut talk);
    let account = talk.account();
    eprintln!("{bus:?}, {count} hosts: {account}");
    let logs = || hosts.logs();
    assert!(account["judged"].as_u64() > Some(500), "{account}");
    assert_eq!(account["twice"], 0, "{account}\n{}", logs());
    assert_eq!(account["lostHere"], 0, "{account}\n{}", logs());
    assert_eq!(account["lost"], 0, "{account}\n{}", logs());
}

/// Counts have to be right so soon after a fault has ended, in ms: it is how long a host may be silent
/// until it is gone. How soon they are is told, and 2 s is the goal.
const SILENCE: u64 = 3000;

fn converges(talk: &mut Talk, hosts: &Hosts, what: &str) {
    let settled = talk.end();
    eprintln!("{what}: {settled}");
    assert_eq!(settled["settled"], true, "{what}\n{}", hosts.logs());
    assert!(settled["ms"].as_u64() <= Some(SILENCE), "{what}: {settled}\n{}", hosts.logs());
}

#[test]
fn a_bus_that_dies_and_comes_back_costs_what_was_said_meanwhile() {
    for bus in ENGINES {
        survives(bus, 2, |hosts, talk| {
            for pause in [0, 700, 4000] {
                talk.begin();
                hosts.bus.kill();
                std::thread::sleep(Duration::from_millis(pause));
                hosts.bus.start();
                converges(talk, hosts, &format!("{bus:?} dead for {pause} ms"));
            }
        });
    }
}

#[test]
fn a_cut_cable_is_noticed_and_its_mending_too() {
    for bus in ENGINES {
        survives(bus, 3, |hosts, talk| {
            for (host, pause) in [(0, 500), (1, 5000), (2, 5000)] {
                talk.begin();
                hosts.net.cut(host);
                std::thread::sleep(Duration::from_millis(pause));
                hosts.net.mend(host);
                converges(talk, hosts, &format!("{bus:?}: host {host} cut off for {pause} ms"));
            }
        });
    }
}

#[test]
fn a_host_that_dies_is_gone_for_the_others() {
    for bus in ENGINES {
        survives(bus, 2, |hosts, talk| {
            talk.begin();
            hosts.kill(1);
            hosts.apps[0].wait_for("has not been heard");
            hosts.restart(1);
            hosts.apps[0].wait_for_times("is there", 2);
            let settled = talk.end();
            assert_eq!(settled["settled"], true, "{settled}\n{}", hosts.logs());
        });
    }
}

#[test]
fn a_host_that_was_held_up_does_not_take_others_for_dead() {
    for _ in 0..3 {
        let (apps, _bus) = pair();
        apps[0].signal("STOP");
        apps[1].wait_for("has not been heard");
        apps[0].signal("CONT");
        apps[1].wait_for_times("is there", 2);
        let log = apps[0].log();
        assert!(!log.contains("has not been heard"), "{log}");
    }
}

#[test]
fn a_killed_worker_costs_only_itself() {
    survives(Engine::Nats, 2, |hosts, talk| {
        for host in [0, 1] {
            talk.begin();
            let pid = *hosts.apps[host].workers().values().next().expect("a worker");
            kill("KILL", pid);
            hosts.apps[host].wait_for_times(" ready worker=", 3);
            let settled = talk.end();
            assert_eq!(settled["settled"], true, "{settled}\n{}", hosts.logs());
        }
    });
}

#[test]
fn without_its_bus_a_host_serves_alone_and_says_so() {
    let net = Net::new(1);
    let words = inside(&net.middle());
    let mut bus = Broker::through(Engine::Nats, &Net::bus(), &words);
    bus.kill();
    let relay = format!("[relay]\nbus = \"{}\"\n", bus.url());
    let address = format!("{}:{}", net.address(0), free_port());
    let spec = sio("adapter03").listen(&[&address]).more(&relay).through(&inside(&net.space(0)));
    let app = spec.start();
    let seen = client_through(&words, "clients/suite.js", &[&app.url(), "2", "2"], &[]);
    seen.unwrap_or_else(|said| panic!("{said}\n{}", app.log()));
    assert!(app.log().contains("no other host is reached"), "{}", app.log());
    bus.start();
    let is_up = || status(&app)["bus"]["up"] == true;
    assert!(until(is_up), "{}", status(&app));
}

/// Two hosts that are this machine's, for what is about requests and not about the net; and the bus.
fn pair() -> ([App; 2], Broker) {
    let bus = Broker::started(Engine::Nats, "");
    let more = |host: usize| {
        format!(
            "[route]\nhost_cookie = \"cohortd_host\"\n\
             [relay]\nbus = \"{}\"\nhost = \"web{host}\"\nchannel = \"test\"\n",
            bus.url()
        )
    };
    let apps = [1, 2].map(|host| {
        let address = format!("127.0.0.1:{}", free_port());
        sio("adapter03").listen(&[&address]).more(&more(host)).start()
    });
    for app in &apps {
        app.wait_for("is there");
    }
    (apps, bus)
}

/// What the page on hosts says to write for a balancer, with where these two are: the block in this
/// language that has this text.
fn documented(language: &str, text: &str, apps: &[App]) -> String {
    const PAGE: &str = include_str!("../../docs/hosts.md");
    let begin = format!("```{language}\n");
    let mut blocks = PAGE.split(&begin).skip(1).filter_map(|rest| rest.split_once("```"));
    let (block, _) = blocks.find(|(block, _)| block.contains(text)).expect("a block");
    assert!(block.contains("10.0.0.1:8080") && block.contains("10.0.0.2:8080"), "{block}");
    let first = block.replace("10.0.0.1:8080", apps[0].address());
    first.replace("10.0.0.2:8080", apps[1].address())
}

fn through_a_balancer(balancer: fn(&str) -> Balancer, language: &str) {
    let single = Bare::start("sio.js");
    let url = format!("http://{}", single.address);
    let env = [("COOKIES", "1")];
    let alone = client("clients/suite.js", &[&url], &env).unwrap_or_else(|said| panic!("{said}"));
    let (apps, _bus) = pair();
    let balancer = balancer(&documented(language, "cookie", &apps));
    let url = format!("http://{}", balancer.address);
    let many = client("clients/suite.js", &[&url, "6", "4"], &env);
    let many = many.unwrap_or_else(|said| panic!("{said}\n{}\n{}", apps[0].log(), apps[1].log()));
    assert_eq!(transcript(&many), transcript(&alone), "{language}");
}

#[test]
fn behind_balancers_that_know_the_host_sessions_stay_on_it() {
    through_a_balancer(Balancer::nginx_with, "nginx");
    through_a_balancer(Balancer::haproxy_with, "haproxy");
}

#[test]
fn a_client_is_told_its_host_once() {
    let (apps, _bus) = pair();
    let cookies = |cookie: &str| {
        let request = format!("GET /who HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n");
        let mut wire = Wire::open(apps[0].address());
        wire.send(request.as_bytes());
        let fields = wire.answer().fields.into_iter();
        let cookies = fields.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        cookies.map(|(_, value)| value).collect::<Vec<_>>()
    };
    let issued = ["cohortd_host=web1; Path=/; HttpOnly; SameSite=Lax"];
    assert_eq!(cookies(""), issued);
    assert_eq!(cookies("Cookie: cohortd_host=web2\r\n"), issued, "it was of another host");
    assert_eq!(cookies("Cookie: a=b; cohortd_host=web1\r\n"), [""; 0]);
}

/// Metrics, `cohortctl ls --hosts` and the status show who is there, and the page has every metric.
#[test]
fn hosts_can_be_seen() {
    let bus = Broker::started(Engine::Nats, "");
    let metrics = format!("127.0.0.1:{}", free_port());
    let relay = |name: &str| {
        format!("[relay]\nbus = \"{}\"\nhost = \"{name}\"\nchannel = \"test\"\n", bus.url())
    };
    let start = |name: &str, more: &str| sio("adapter03").more(&(relay(name) + more)).start();
    let here = start("here", &format!("[metrics]\nlisten = \"{metrics}\"\n"));
    let _there = start("there", "");
    here.wait_for("is there");
    let scrape = || get(&metrics, "/metrics").text();
    let beats = || scrape().contains("cohortd_bus_delay_seconds ");
    assert!(until(beats), "{}", scrape());
    let page = scrape();
    let documented = include_str!("../../docs/metrics.md");
    let is_ours =
        |line: &&str| line.starts_with("cohortd_bus_") || line.starts_with("cohortd_host");
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let types: Vec<&str> = types.filter(is_ours).collect();
    assert_eq!(types.len(), 15, "{types:?}");
    for line in types {
        let (name, kind) = line.split_once(' ').expect("a name and a kind");
        assert!(documented.contains(&format!("| `{name}` | {kind} |")), "{line} is not documented");
    }
    assert!(page.contains("cohortd_hosts 1\n"), "{page}");
    assert!(page.contains("cohortd_host_workers{host=\"there\"} 2\n"), "{page}");
    let listed = cohortctl().args(["ls", "--hosts"]).output().expect("cohortctl starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let row = |words: [&str; 3]| {
        let has = |line: &str| words.iter().all(|word| line.split_whitespace().any(|w| w == *word));
        listed.lines().any(has)
    };
    assert!(row([here.name(), "here", "this"]), "{listed}");
    assert!(row([here.name(), "there", "2"]), "{listed}");
}
