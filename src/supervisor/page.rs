//! All metrics, written. Their names and what they say are documented in `docs/metrics.md`, which a
//! test compares with this.

use std::time::Duration;

use super::scrape::Snapshot;
use super::tasks::Shared;
use crate::metrics::prom_client::{Answer, aggregate};
use crate::metrics::text::{Exposition, Family, Format, Kind};
use crate::relay::{BusStatus, HostStatus};
use crate::route::{SlotCounts, Upstream};
use crate::worker::{memory, processor};

/// The states that a worker can be in.
const STATES: [&str; 6] = ["starting", "ready", "draining", "disconnecting", "stopping", "killed"];

/// Writes everything, with the workers' own metrics at the end.
pub(super) fn write(
    snapshot: &Snapshot,
    shared: &Shared,
    answers: &[Answer],
    format: Format,
) -> String {
    let slots = shared.front.slots();
    let slots = slots.iter().enumerate().map(|(at, counts)| {
        let workers = snapshot.workers.iter().map(|(upstream, _)| &**upstream);
        Slot {
            name: at.to_string(),
            counts,
            workers: workers.filter(|upstream| upstream.worker.slot == at).collect(),
        }
    });
    let mut page = Page { out: Exposition::new(format), slots: slots.collect() };
    page.of_cohortd(snapshot, shared);
    page.of_workers(shared);
    page.of_requests(shared);
    page.of_connections(shared);
    page.of_messages(shared);
    if let Some(bus) = shared.relay.status() {
        page.of_bus(&bus);
    }
    aggregate(answers, &mut page.out);
    page.out.finish()
}

struct Page<'a> {
    out: Exposition,
    slots: Vec<Slot<'a>>,
}

/// A slot, and who is there now.
struct Slot<'a> {
    name: String,
    counts: &'a SlotCounts,
    workers: Vec<&'a Upstream>,
}

impl Slot<'_> {
    fn sum(&self, of: impl Fn(&Upstream) -> usize) -> f64 {
        self.workers.iter().map(|upstream| of(upstream)).sum::<usize>() as f64
    }
}

impl Page<'_> {
    fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.out.family(name, Kind::Counter, help)
    }

    fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.out.family(name, Kind::Gauge, help)
    }

    /// A value for each slot that has one.
    fn each(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        of: impl Fn(&Slot<'_>) -> Option<f64>,
    ) {
        let mut family = self.out.family(name, kind, help);
        for slot in &self.slots {
            if let Some(value) = of(slot) {
                family.sample("", [("slot", slot.name.as_str())], value);
            }
        }
    }

    fn of_cohortd(&mut self, snapshot: &Snapshot, shared: &Shared) {
        let labels = [("app", snapshot.app.as_str()), ("version", env!("CARGO_PKG_VERSION"))];
        self.gauge("cohortd_build_info", "Which app this is, and which cohortd; always 1.")
            .sample("", labels, 1.0);
        self.gauge("cohortd_start_time_seconds", "When cohortd began, since 1970.")
            .is(shared.counts.begun.as_secs_f64());
        let pid = std::process::id();
        if let Some(cpu) = processor::used(pid, None) {
            self.counter("cohortd_cpu_seconds_total", "Processor time of cohortd itself.")
                .is(cpu.as_secs_f64());
        }
        if let Some(memory) = memory::used(pid, None) {
            self.gauge("cohortd_memory_bytes", "Memory that cohortd itself has resident.")
                .is(memory as f64);
        }
        self.gauge("cohortd_generation", "The generation that serves; a reload makes a new one.")
            .is(snapshot.generation as f64);
        self.counter("cohortd_reloads_total", "Reloads, by how they ended.")
            .tally(&[], &shared.counts.reloads);
        self.gauge("cohortd_workers_wanted", "How many workers there should be.")
            .is(snapshot.wanted as f64);
        let mut states = self.gauge("cohortd_workers", "Workers, by state.");
        for state in STATES {
            let count = snapshot.workers.iter().filter(|(_, its)| *its == state).count();
            states.sample("", [("state", state)], count as f64);
        }
        self.counter("cohortd_workers_started_total", "Workers that were started.")
            .is(shared.counts.started() as f64);
        self.counter("cohortd_workers_ended_total", "Workers that ended, by cause.")
            .tally(&[], &shared.counts.ended);
    }

    fn of_workers(&mut self, shared: &Shared) {
        let memory = |slot: &Slot<'_>| {
            let known = slot.workers.iter().filter_map(|upstream| upstream.worker.memory());
            Some(known.sum::<usize>() as f64)
        };
        let help = "Memory of a slot's workers: of all of their processes, without what the kernel \
                    could take back, where they have cgroups; else resident.";
        self.each("cohortd_worker_memory_bytes", Kind::Gauge, help, memory);
        let cpu = |slot: &Slot<'_>| {
            let known = slot.workers.iter().filter_map(|upstream| upstream.worker.cpu());
            Some(slot.counts.cpu(known.sum::<Duration>()).as_secs_f64())
        };
        let help = "Processor time of a slot's workers, one after the other.";
        self.each("cohortd_worker_cpu_seconds_total", Kind::Counter, help, cpu);
        let delay = |slot: &Slot<'_>| {
            let known = slot.workers.iter().filter_map(|u| u.worker.event_loop_delay());
            known.max().map(|delay| delay.as_secs_f64())
        };
        let help = "How long a worker's event loop last took to answer cohortd, or has not answered \
                    for.";
        self.each("cohortd_worker_event_loop_last_delay_seconds", Kind::Gauge, help, delay);
        let help =
            "How long workers' event loops took to answer cohortd, which asks once a second.";
        let name = "cohortd_worker_event_loop_delay_seconds";
        let mut family = self.out.family(name, Kind::Histogram, help);
        for slot in &self.slots {
            family.histogram(&[("slot", &slot.name)], &slot.counts.event_loop);
        }
        let help = "Socket.IO sessions that live in a slot's workers.";
        self.each("cohortd_worker_sessions", Kind::Gauge, help, |slot| {
            Some(slot.sum(|upstream| shared.front.sessions_of(upstream.worker.id)))
        });
        let help = "Requests in flight in a slot's workers, and connections that are being handed to \
                    them.";
        self.each("cohortd_worker_requests_in_flight", Kind::Gauge, help, |slot| {
            Some(slot.sum(Upstream::in_flight))
        });
        let help = "Messages that wait to be read by a slot's workers.";
        self.each("cohortd_worker_queue_bytes", Kind::Gauge, help, |slot| {
            Some(slot.sum(|upstream| upstream.worker.queued()))
        });
    }

    fn of_requests(&mut self, shared: &Shared) {
        let counts = &shared.front.counts;
        let help =
            "Requests that workers have answered through cohortd, by the class of the status.";
        let mut family = self.out.family("cohortd_requests_total", Kind::Counter, help);
        for slot in &self.slots {
            family.tally(&[("slot", &slot.name)], &slot.counts.answers);
        }
        let help = "From a request's head to its answer's, with what it waited for a worker; without \
                    Engine.IO's polls, which wait for something to say.";
        let name = "cohortd_request_duration_seconds";
        let mut family = self.out.family(name, Kind::Histogram, help);
        for slot in &self.slots {
            family.histogram(&[("slot", &slot.name)], &slot.counts.durations);
        }
        self.counter("cohortd_own_answers_total", "Requests that cohortd answered itself.")
            .tally(&[], &counts.own);
        let help = "Requests whose clients went away before there was an answer.";
        self.counter("cohortd_requests_abandoned_total", help).is(counts.abandoned() as f64);
        self.counter("cohortd_request_retries_total", "Requests that were sent once more.")
            .tally(&[], &counts.retries);
        let help = "Sessions of which requests wait to hear where they live.";
        self.gauge("cohortd_sessions_parked", help).is(shared.front.parked() as f64);
        let help = "Requests with a session that were given to any worker, because its own was not \
                    found.";
        self.counter("cohortd_session_misses_total", help).tally(&[], &counts.misses);
    }

    fn of_connections(&mut self, shared: &Shared) {
        let counts = &shared.front.counts;
        self.counter("cohortd_connections_accepted_total", "Connections that were accepted.")
            .is(counts.accepted() as f64);
        let help = "Connections that are open in cohortd; those that workers were given are not.";
        self.gauge("cohortd_connections_open", help).is(shared.front.connections() as f64);
        let help = "Connections that were ended before a request on them was taken.";
        self.counter("cohortd_connections_refused_total", help).tally(&[], &counts.refused);
        let help = "Connections that workers were given for good, by what is spoken on them.";
        let name = "cohortd_connections_handed_over_total";
        let mut family = self.out.family(name, Kind::Counter, help);
        for slot in &self.slots {
            family.tally(&[("slot", &slot.name)], &slot.counts.handed_over);
        }
    }

    fn of_messages(&mut self, shared: &Shared) {
        let relayed = shared.relay.relayed();
        let help = "Packets of the Socket.IO cluster adapter that workers sent.";
        self.counter("cohortd_relay_packets_total", help).is(relayed.packets as f64);
        let help = "How often such a packet went on to another worker.";
        self.counter("cohortd_relay_deliveries_total", help).is(relayed.deliveries as f64);
        let help = "The bytes of all that went on.";
        self.counter("cohortd_relay_delivered_bytes_total", help).is(relayed.bytes as f64);
        let help = "What came of asking workers for the metrics of their own prom-client.";
        self.counter("cohortd_prom_client_questions_total", help).tally(&[], &shared.counts.asked);
    }

    /// Where `[relay] bus` is set.
    fn of_bus(&mut self, bus: &BusStatus) {
        self.gauge("cohortd_bus_up", "Whether the bus is reached: 1 or 0.")
            .is(f64::from(u8::from(bus.up)));
        self.counter("cohortd_bus_reconnects_total", "How often the bus was reached anew.")
            .is(bus.reconnects as f64);
        if let Some(delay) = bus.delay {
            let help = "How long a frame last took to the bus and back.";
            self.gauge("cohortd_bus_delay_seconds", help).is(delay);
        }
        let help = "Bytes that wait to be sent to the bus.";
        self.gauge("cohortd_bus_queue_bytes", help).is(bus.queued as f64);
        let kinds = [("sent", bus.sent), ("dropped", bus.dropped)];
        let help = "Frames that were sent to the bus, or dropped because too much waited for it.";
        let mut family = self.counter("cohortd_bus_frames_total", help);
        kinds.iter().for_each(|(kind, t)| family.sample("", [("kind", *kind)], t.frames as f64));
        let help = "The bytes of all that.";
        let mut family = self.counter("cohortd_bus_bytes_total", help);
        kinds.iter().for_each(|(kind, t)| family.sample("", [("kind", *kind)], t.bytes as f64));
        let help = "Frames that other hosts have sent and that have not come.";
        self.counter("cohortd_bus_lost_total", help).is(bus.lost as f64);
        let help = "Frames that came twice, or after what was said later, and were not passed on.";
        self.counter("cohortd_bus_duplicates_total", help).is(bus.duplicates as f64);
        let help = "Frames on the app's channel that were no cohortd's, and went nowhere.";
        self.counter("cohortd_bus_foreign_total", help).is(bus.foreign as f64);
        self.gauge("cohortd_hosts", "Other hosts that are there.").is(bus.hosts.len() as f64);
        let help = "Workers of another host that have spoken.";
        self.each_host("cohortd_host_workers", Kind::Gauge, help, bus, |host| host.workers as f64);
        let help = "Frames that have come from another host since it came.";
        self.each_host("cohortd_host_frames_total", Kind::Counter, help, bus, |host| {
            host.received.frames as f64
        });
        let help = "The bytes of all that.";
        self.each_host("cohortd_host_bytes_total", Kind::Counter, help, bus, |host| {
            host.received.bytes as f64
        });
        let help = "Requests whose session is on another host, which it has answered.";
        self.each_host("cohortd_host_forwarded_total", Kind::Counter, help, bus, |host| {
            host.forwarded.requests as f64
        });
        let help = "Such requests that could not be passed on, or were not answered.";
        self.each_host("cohortd_host_forward_failures_total", Kind::Counter, help, bus, |host| {
            host.forwarded.failed as f64
        });
    }

    /// A value for each other host.
    fn each_host(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &str,
        bus: &BusStatus,
        of: impl Fn(&HostStatus) -> f64,
    ) {
        let mut family = self.out.family(name, kind, help);
        for host in &bus.hosts {
            family.sample("", [("host", host.name.as_str())], of(host));
        }
    }
}
