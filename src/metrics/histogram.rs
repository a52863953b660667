//! How long things have taken, by bucket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The buckets' upper bounds, in microseconds: from what a worker at rest takes to what nobody waits
/// for.
const BOUNDS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Durations, of which only their buckets and their sum are kept.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    /// Above the last bound.
    longer: AtomicU64,
    nanos: AtomicU64,
}

/// A histogram at a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// For each bound, in seconds, how many took so long at most.
    pub buckets: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
    /// In seconds.
    pub sum: f64,
}

impl Histogram {
    /// Something has taken so long.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|bound| nanos <= bound * 1000);
        let bucket = at.map_or(&self.longer, |at| &self.buckets[at]);
        bucket.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How it is now.
    pub fn read(&self) -> Reading {
        let mut count = 0;
        let buckets = BOUNDS.iter().zip(&self.buckets).map(|(bound, bucket)| {
            count += bucket.load(Ordering::Relaxed);
            (*bound as f64 / 1e6, count)
        });
        let buckets = buckets.collect();
        count += self.longer.load(Ordering::Relaxed);
        Reading { buckets, count, sum: self.nanos.load(Ordering::Relaxed) as f64 / 1e9 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 10_000_000, 10_000_001, 60_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let Reading { buckets, count, sum } = histogram.read();
        assert_eq!(buckets.first(), Some(&(0.0005, 2)));
        assert_eq!(buckets[1], (0.001, 3));
        assert_eq!(buckets.last(), Some(&(10.0, 4)));
        assert_eq!(count, 6);
        assert!((sum - 80.001_002).abs() < 1e-9, "{sum}");
        assert!(buckets.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1));
    }
}
