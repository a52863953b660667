//! How many connections there may be, in all and of one client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;

use crate::config::Limits;
use crate::sync::lock;

/// The connections that are here. Those that a worker was given are not.
#[derive(Debug, Default)]
pub(super) struct Admission {
    admitted: Mutex<Admitted>,
}

#[derive(Debug, Default)]
struct Admitted {
    all: usize,
    /// By [`network_of`]; only while there is a limit.
    by_client: HashMap<Vec<u8>, usize>,
}

/// A connection's place among them; free when it is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    admission: &'a Admission,
    client: Option<Vec<u8>>,
}

impl Admission {
    /// One more connection, if that is within the limits; `client` where it is one of many behind
    /// an address of their own.
    pub(super) fn admit(&self, limits: &Limits, client: Option<IpAddr>) -> Option<Place<'_>> {
        let mut admitted = lock(&self.admitted);
        if limits.connections.is_some_and(|most| admitted.all >= most) {
            return None;
        }
        let client = client.filter(|_| limits.connections_per_client.is_some()).map(network_of);
        if let (Some(most), Some(client)) = (limits.connections_per_client, &client) {
            let count = admitted.by_client.entry(client.clone()).or_default();
            if *count >= most {
                return None;
            }
            *count += 1;
        }
        admitted.all += 1;
        Some(Place { admission: self, client })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut admitted = lock(&self.admission.admitted);
        admitted.all -= 1;
        if let Some(client) = &self.client
            && let Some(count) = admitted.by_client.get_mut(client)
        {
            *count -= 1;
            if *count == 0 {
                admitted.by_client.remove(client);
            }
        }
    }
}

/// What counts as one client: an IPv6 client has a whole /64.
pub(super) fn network_of(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[..8].to_vec(),
    }
}
