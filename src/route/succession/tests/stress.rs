//! Many connections at once, at whatever stage each of them is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::JoinSet;

use super::app::{App, filling, sum, until};
use super::talk::{Talk, get, post};
use crate::sync::lock;

const CLIENTS: usize = 300;
const REQUESTS: usize = 8;

/// How many front-ends there are, one after the other.
const SIDES: usize = 4;

#[tokio::test]
async fn every_request_is_answered_once_whenever_one_front_end_follows_another() {
    for seed in seeds() {
        let app = App::start();
        let (mut side, place) = app.open();
        let mut rng = Rng::with_seed(seed);
        let (next, mut clients) = (Arc::new(AtomicU64::new(1)), JoinSet::new());
        for _ in 0..CLIENTS {
            clients.spawn(client(place, rng.fork(), next.clone()));
        }
        let mut sides = vec![side.clone()];
        for n in 1..SIDES {
            // Somewhere in the n-th part of all that is asked.
            let part = (CLIENTS * REQUESTS / SIDES) as u64;
            let at = part * n as u64 - rng.u64(..part);
            until("they have asked", || next.load(Ordering::Relaxed) > at).await;
            side = app.follow(&side).await;
            sides.push(side.clone());
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        for side in &sides[..SIDES - 1] {
            let passed_on = tokio::time::timeout(Duration::from_secs(5), side.front.passed_on());
            passed_on.await.unwrap_or_else(|_| panic!("seed {seed}: somebody stays for ever"));
        }
        let asked = lock(&app.work.asked).clone();
        assert_eq!(asked.len(), next.load(Ordering::Relaxed) as usize - 1, "seed {seed}");
        assert!(asked.values().all(|times| *times == 1), "seed {seed}: one was asked twice");
        let answered: Vec<u64> = sides.iter().map(|side| side.worker.requests()).collect();
        assert!(answered.iter().all(|some| *some > 0), "seed {seed}: {answered:?}");
        let accepted: u64 = sides.iter().map(|side| side.front.counts.accepted()).sum();
        assert_eq!(accepted, CLIENTS as u64, "seed {seed}: one was counted twice");
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => vec![1, 2],
    }
}

async fn client(place: SocketAddr, mut rng: Rng, next: Arc<AtomicU64>) {
    rest(&mut rng).await;
    let mut talk = Talk::to(place).await;
    let mut asked = 0;
    while asked < REQUESTS {
        rest(&mut rng).await;
        let mut new = |rng: &mut Rng| {
            asked += 1;
            let length = if rng.u8(..) < 8 { rng.usize(..1 << 20) } else { rng.usize(1..20_000) };
            (next.fetch_add(1, Ordering::Relaxed), length)
        };
        match rng.u8(..10) {
            // Uploads
            0..3 => {
                let (id, length) = new(&mut rng);
                let body = filling(id, length);
                let request = [post(&format!("/sum/{id}"), length).as_bytes(), &body].concat();
                send_in_parts(&mut talk, &mut rng, &request).await;
                assert_eq!(talk.hear().await, sum(&body).into_bytes());
            }
            // Several at once
            3..5 => {
                let several: Vec<_> = (0..rng.usize(2..6)).map(|_| new(&mut rng)).collect();
                let target = |(id, length): &(u64, usize)| get(&format!("/fill/{id}/{length}"));
                let all: String = several.iter().map(target).collect();
                send_in_parts(&mut talk, &mut rng, all.as_bytes()).await;
                for (id, length) in several {
                    assert!(talk.hear().await == filling(id, length));
                }
            }
            kind => {
                let (id, length) = new(&mut rng);
                let name = if kind < 7 { "chunks" } else { "fill" };
                let request = get(&format!("/{name}/{id}/{length}"));
                send_in_parts(&mut talk, &mut rng, request.as_bytes()).await;
                let pause = (rng.u8(..) < 32).then(|| Duration::from_millis(2));
                assert!(talk.hear_slowly(pause).await == filling(id, length));
            }
        }
    }
}

async fn rest(rng: &mut Rng) {
    match rng.u8(..4) {
        0 => {}
        1 => tokio::task::yield_now().await,
        _ => tokio::time::sleep(Duration::from_micros(rng.u64(..30_000))).await,
    }
}

async fn send_in_parts(talk: &mut Talk, rng: &mut Rng, bytes: &[u8]) {
    let mut bytes = bytes;
    while rng.bool() && bytes.len() > 1 {
        let (part, rest_of_it) = bytes.split_at(rng.usize(1..bytes.len()));
        talk.send(part).await;
        rest(rng).await;
        bytes = rest_of_it;
    }
    talk.send(bytes).await;
}
