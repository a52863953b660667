//! The package is upgraded under load, and downgraded again: the app runs on by the new program, as
//! the same process with the same workers, and nobody notices.

use std::path::Path;

use super::end::{ends, faults};
use super::{LOAD, SIO, TIMES};
use crate::machine::Suite;
use crate::package::{self, BROKEN, broken, deb, newer};
use crate::systemd::on_bare;

fn name(deb: &Path) -> &str {
    deb.file_name().and_then(|name| name.to_str()).expect("a name")
}

fn upgraded_under_load(suite: Suite) {
    if !package::require() {
        return;
    }
    let (old, new, bad) = (deb(), newer("98"), broken("99"));
    on_bare(suite, old.parent().expect("a folder"), |host| {
        let install = |deb: &Path| {
            let out = host.dpkg(&format!("-i /debs/{}", name(deb)));
            assert_eq!(out.code, 0, "{out}\n{}", host.journal("-n 100"));
        };
        install(&old);
        host.start("sio.js", SIO);
        let (fleet, cohortd) = (host.settles(2), host.cohortd());
        let storm = host.storm(&LOAD);
        for _ in 0..TIMES {
            for deb in [&new, &old] {
                let before = host.place_of(cohortd);
                install(deb);
                assert_ne!(host.place_of(cohortd), before, "a new program when dpkg has ended");
            }
            assert_eq!(host.settles(2), fleet, "the same workers");
            assert_eq!(host.cohortd(), cohortd);
        }

        // One whose program can't start changes nothing.
        let before = host.place_of(cohortd);
        let refused = host.dpkg(&format!("-i /debs/{}", name(&bad)));
        assert!(refused.code != 0 && refused.stderr.contains(BROKEN), "{refused}");
        assert_eq!(host.place_of(cohortd), before);
        assert_eq!((host.settles(2), host.cohortd()), (fleet.clone(), cohortd));
        // And the next one that can is installed.
        install(&new);
        assert_ne!(host.place_of(cohortd), before);
        assert_eq!((host.settles(2), host.cohortd()), (fleet, cohortd));

        let busy = [("websocket", 1000), ("polling", 500), ("pausing", 100), ("new", 100)];
        host.ends(storm, &[faults, ends], &busy);
    });
}

#[test]
fn upgrades_under_load_are_noticed_by_nobody_on_252() {
    upgraded_under_load(Suite::Bookworm);
}

#[test]
fn upgrades_under_load_are_noticed_by_nobody_on_257() {
    upgraded_under_load(Suite::Trixie);
}
