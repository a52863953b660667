//! What goes wrong next. Pure: a seed says all of it.

/// A small generator of random numbers (splitmix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number from 0 to `n - 1`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }
}

/// What is wrong with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Its configuration can't be read.
    Misspelt,
    /// Its program is not there.
    Missing,
    Throws,
    Idle,
    Crashes,
    Ill,
    Sickens,
}

const FAULTS: [Fault; 7] = [
    Fault::Misspelt,
    Fault::Missing,
    Fault::Throws,
    Fault::Idle,
    Fault::Crashes,
    Fault::Ill,
    Fault::Sickens,
];

/// What a configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) workers: usize,
    pub(super) fault: Option<Fault>,
}

/// One thing that goes wrong, or that an operator does at the wrong moment.
#[derive(Debug, Clone, Copy)]
pub(super) enum Act {
    /// SIGKILL for a worker: which one, modulo those that there are.
    Kill(usize),
    /// SIGSTOP: it hangs.
    Stop(usize),
    /// A request after which a worker never lets go of its event loop.
    Spin,
    /// A request after which a worker exits by itself.
    Exit(u8),
    /// A request that kills whoever gets it: two workers, and no more.
    Crash,
    /// `cohortctl reload`.
    Reload(Release),
    /// Two at once, and the file is changed in between.
    ReloadTwice(Release, Release),
    /// SIGHUP.
    HangUp(Release),
    /// `cohortctl scale`.
    Scale(usize),
    /// Clients open sessions, say nothing for so many ms, and are gone.
    Vanish(u64),
    /// SIGKILL for cohortd itself, and for the next one so many ms after that has begun.
    KillCohortd(Option<u64>),
    /// `cohortctl reexec`.
    Reexec,
}

impl Act {
    /// Where cohortd `comes_back`, it is among those that are killed.
    pub(super) fn decide(random: &mut Random, comes_back: bool) -> Act {
        if comes_back && random.below(6) == 0 {
            return Act::blow(random);
        }
        match random.below(100) {
            0..20 => Act::Kill(random.below(1 << 16) as usize),
            20..30 => Act::Stop(random.below(1 << 16) as usize),
            30..37 => Act::Spin,
            37..45 => Act::Exit(random.below(3) as u8),
            45..50 => Act::Crash,
            50..72 => Act::Reload(release(random)),
            72..78 => Act::ReloadTwice(release(random), release(random)),
            78..84 => Act::HangUp(release(random)),
            84..94 => Act::Scale(workers(random)),
            _ => Act::Vanish(random.below(6000)),
        }
    }

    /// What befalls cohortd.
    fn blow(random: &mut Random) -> Act {
        match random.below(10) {
            0..5 => Act::KillCohortd(None),
            5..8 => Act::KillCohortd(Some(random.below(400))),
            _ => Act::Reexec,
        }
    }
}

/// Something is under way, and so many ms later cohortd is struck in the middle of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub(super) first: Act,
    pub(super) after: u64,
    pub(super) blow: Act,
}

impl Round {
    pub(super) fn decide(random: &mut Random) -> Round {
        let first = match random.below(20) {
            0..10 => Act::Reload(soon_found(release(random))),
            10..14 => Act::Scale(workers(random)),
            14..16 => Act::Kill(random.below(1 << 16) as usize),
            16..17 => Act::Stop(random.below(1 << 16) as usize),
            _ => Act::KillCohortd(None),
        };
        Round { first, after: random.below(1500), blow: Act::blow(random) }
    }
}

/// Half of them are good.
fn release(random: &mut Random) -> Release {
    let fault = (random.below(2) == 0).then(|| random.one_of(&FAULTS));
    Release { workers: workers(random), fault }
}

/// Where the canary has not long, nobody sees that one falls ill later: it would serve then.
fn soon_found(release: Release) -> Release {
    let fault = release.fault.map(|fault| match fault {
        Fault::Sickens => Fault::Ill,
        fault => fault,
    });
    Release { fault, ..release }
}

fn workers(random: &mut Random) -> usize {
    1 + random.below(4) as usize
}
