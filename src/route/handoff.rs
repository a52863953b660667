//! Handing a client's connection to a worker. Nothing of it has been read, so it can be offered to
//! one worker after the other until one takes it. Where it can't be handed over, its bytes are
//! carried.

use std::time::Duration;

use super::affinity::Affinity;
use super::arrive::refuse;
use super::choose::Work;
use super::counts::Refused;
use super::front::Front;
use super::given::{HandedOver, Speaks};
use super::head::Session;
use super::tunnel;
use super::upstream::ListenerId;
use crate::listen::{Client, descriptor, release, watch};
use crate::worker::WorkerId;

/// Each refusal means that a worker closes or is full; so many in a row mean that all do.
const MAX_OFFERS: usize = 16;

/// How long one that has refused is left alone, when there is no other.
const PAUSE: Duration = Duration::from_millis(20);

/// Hands the connection over, or answers 503 where HTTP is spoken. By its lane if the worker has one,
/// but not after a worker has `refused` it: by Node's own way each of them says yes or no.
///
/// # Errors
/// The connection, of which nothing has been read: the front-end passes it on.
pub(super) async fn hand_over(
    front: &Front,
    listener: ListenerId,
    client: Client,
    (session, affinity, speaks): (Session, Affinity, Speaks),
    refused: Option<WorkerId>,
) -> Result<(), Client> {
    let mut client = client;
    let mut unreached = refused;
    for n in 0..MAX_OFFERS {
        let offer = async {
            let upstream =
                front.choose(listener, &session, affinity, Work::Lasting, unreached).await?;
            if n > 1 || unreached == Some(upstream.worker.id) {
                // It will say no again if it is asked at once.
                upstream.is_going(PAUSE).await;
            }
            Some((upstream, front.needs_a_worker().await))
        };
        let offer = tokio::select! {
            biased;
            () = front.passes_on() => return Err(client),
            offer = offer => offer,
        };
        let Some((upstream, needing)) = offer else { break };
        unreached = Some(upstream.worker.id);
        let in_flight = upstream.begin();
        if let Some(connected) = upstream.connect_private().await {
            let Ok(worker) = connected else { continue };
            let close = upstream.open_tunnel();
            drop(needing);
            let stop = front.stopping();
            tokio::select! {
                () = tunnel::carry_unread(client, worker, &close) => {}
                () = stop.cancelled() => {}
            }
            return Ok(());
        }
        // It may have rested before, and is not ours alone from the note on.
        front.mark_unread(descriptor(&client));
        let Ok(fd) = release(client) else { return Ok(()) };
        let Ok(inode) = rustix::fs::fstat(&fd).map(|stat| stat.st_ino) else { return Ok(()) };
        // Before it is: the worker may have it already when we are killed.
        if let (Some(notes), Some(given)) = (front.notes(), HandedOver::of(inode, &speaks)) {
            notes.given(upstream.worker.id, given);
        }
        let fd = match refused {
            None => upstream.send(listener, fd, inode, &speaks),
            Some(_) => Err(fd),
        };
        let Err(fd) = fd else { return Ok(()) };
        let Err(fd) = upstream.hand_over(listener, fd, None).await else {
            upstream.given_away(inode, speaks);
            return Ok(());
        };
        drop((in_flight, needing));
        let Ok(back) = watch(fd) else { return Ok(()) };
        client = back;
    }
    front.counts.refused.count(Refused::NoWorker);
    // Others would not understand it.
    if !matches!(speaks, Speaks::Other) {
        front.mark(descriptor(&client)).busy();
        refuse(&mut client, "503 Service Unavailable").await;
    }
    Ok(())
}
