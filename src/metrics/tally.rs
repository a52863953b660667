//! Counters, one for each case that there is.

use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted by case: an enum made by `cases!`.
pub trait Cases: Copy {
    /// The labels that tell its cases apart.
    const KEYS: &'static [&'static str];
    /// For each case the labels' values.
    const VALUES: &'static [&'static [&'static str]];

    /// Its place in [`Cases::VALUES`].
    fn index(self) -> usize;
}

/// An enum that is counted by: `by` names its labels, and each case says their values.
macro_rules! cases {
    (
        $(#[$doc:meta])*
        $vis:vis enum $name:ident by $($key:literal),+ {
            $($(#[$case_doc:meta])* $case:ident: $($value:literal),+;)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis enum $name {
            $($(#[$case_doc])* $case,)+
        }

        impl $crate::metrics::Cases for $name {
            const KEYS: &'static [&'static str] = &[$($key),+];
            const VALUES: &'static [&'static [&'static str]] = &[$(&[$($value),+]),+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

pub(crate) use cases;

/// How often which case has been.
pub struct Tally<C> {
    counts: Box<[AtomicU64]>,
    cases: PhantomData<C>,
}

impl<C: Cases> Default for Tally<C> {
    fn default() -> Self {
        Tally { counts: C::VALUES.iter().map(|_| AtomicU64::new(0)).collect(), cases: PhantomData }
    }
}

impl<C> fmt::Debug for Tally<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.fmt(f)
    }
}

impl<C: Cases> Tally<C> {
    /// Once more.
    pub fn count(&self, case: C) {
        self.counts[case.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How often this case has been.
    pub fn of(&self, case: C) -> u64 {
        self.counts[case.index()].load(Ordering::Relaxed)
    }

    /// Each case's labels, and how often it has been.
    pub fn each(&self) -> impl Iterator<Item = (Vec<(&'static str, &'static str)>, u64)> {
        C::VALUES.iter().zip(&self.counts).map(|(values, count)| {
            let labels = C::KEYS.iter().copied().zip(values.iter().copied());
            (labels.collect(), count.load(Ordering::Relaxed))
        })
    }
}
