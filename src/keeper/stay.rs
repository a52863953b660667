//! What the keeper does.
//!
//! It was cloned from a process that may have had threads: nothing is allocated, locked or logged here,
//! and nothing panics.

use std::ffi::CStr;
use std::io::IoSlice;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, RawDir, fstat, open};
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType, getpeername,
    getsockname, recv, sendmsg, sockopt,
};

use super::marks::Stage;
use super::{ALL, ASK, BYE, Marks, RESTS, UNREAD};
use crate::listen::Place;
use crate::sys;

/// As it is called in `ps`,
const NAME: &CStr = c"cohortd-keeper";

/// and when cohortd has ended, and nothing of it is left here but what is kept.
const KEEPING: &CStr = c"cohortd-keeping";

/// How long it waits for somebody who goes on, and for whoever goes on to read.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Too many descriptors are in flight in the whole system: how long until the next try.
const CROWDED: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };

/// What it has to know. All of it was there before it was.
pub(super) struct Duty<'a> {
    /// Whose connections it keeps.
    pub(super) main: BorrowedFd<'a>,
    /// Where it is asked for them.
    pub(super) asked: BorrowedFd<'a>,
    pub(super) places: &'a [Place],
    pub(super) marks: Marks,
}

impl Duty<'_> {
    /// Waits for the end of cohortd, and passes on what that leaves.
    pub(super) fn stay(&self) {
        let _ = rustix::thread::set_name(NAME);
        if !is_ready(self.main, PollFlags::IN, None) {
            return;
        }
        // At once: whoever is at the other end of anything else hears that it has ended.
        each_descriptor(|descriptor| {
            if self.needs(descriptor.as_fd()) || self.stage(descriptor.as_fd()).is_some() {
                let _ = ManuallyDrop::new(descriptor);
            }
        });
        let _ = rustix::thread::set_name(KEEPING);
        while self.hears() == Some(ASK) && self.pass() {}
    }

    fn needs(&self, descriptor: BorrowedFd<'_>) -> bool {
        descriptor.as_raw_fd() == self.asked.as_raw_fd()
    }

    /// The next word of somebody who goes on, if there is one.
    fn hears(&self) -> Option<u8> {
        if !is_ready(self.asked, PollFlags::IN, Some(&PATIENCE)) {
            return None;
        }
        let mut word = [BYE];
        let (length, _) = recv(self.asked, &mut word, RecvFlags::empty()).ok()?;
        (length == 1).then_some(word[0])
    }

    /// Passes on every connection, and closes it here. Whether somebody took them.
    fn pass(&self) -> bool {
        let mut goes_on = true;
        each_descriptor(|descriptor| {
            if self.needs(descriptor.as_fd()) {
                let _ = ManuallyDrop::new(descriptor);
                return;
            }
            let word = match self.stage(descriptor.as_fd()) {
                Some(Stage::Rests) => RESTS,
                _ => UNREAD,
            };
            goes_on = goes_on && self.says(word, Some(descriptor.as_fd()));
        });
        goes_on && self.says(ALL, None)
    }

    fn says(&self, word: u8, connection: Option<BorrowedFd<'_>>) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        loop {
            let mut control = SendAncillaryBuffer::new(&mut space);
            let connections = connection.as_slice();
            if !connections.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(connections));
            }
            let word = [IoSlice::new(std::slice::from_ref(&word))];
            match sendmsg(self.asked, &word, &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return true,
                Err(Errno::INTR) => {}
                Err(Errno::TOOMANYREFS) => drop(poll(&mut [], Some(&CROWDED))),
                Err(Errno::AGAIN) if is_ready(self.asked, PollFlags::OUT, Some(&PATIENCE)) => {}
                Err(_) => return false,
            }
        }
    }

    /// How far a connection has come, if it is a client's that can be gone on with.
    fn stage(&self, descriptor: BorrowedFd<'_>) -> Option<Stage> {
        let is_stream = sockopt::socket_type(descriptor).ok()? == SocketType::STREAM;
        if !is_stream || sockopt::socket_acceptconn(descriptor).ok()? {
            return None;
        }
        getpeername(descriptor).ok()?;
        let here = getsockname(descriptor).ok()?;
        if !self.places.iter().any(|place| place.has_accepted(&here)) {
            return None;
        }
        let stage = self.marks.stage(descriptor, fstat(descriptor).ok()?.st_ino);
        (stage != Stage::Busy).then_some(stage)
    }
}

/// Whether it is, within this time.
fn is_ready(descriptor: BorrowedFd<'_>, how: PollFlags, limit: Option<&Timespec>) -> bool {
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(descriptor, how)], limit) {
            Ok(ready) => return ready > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Shows every descriptor of this process, which is closed then, but those below 3.
fn each_descriptor(mut show: impl FnMut(OwnedFd)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(list) = open(c"/proc/self/fd", flags, Mode::empty()) else { return };
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&list, &mut space);
    while let Some(Ok(entry)) = entries.next() {
        let number = number(entry.file_name());
        if let Some(number) = number.filter(|number| *number > 2 && *number != list.as_raw_fd())
            && let Ok(descriptor) = sys::own(number)
        {
            show(descriptor);
        }
    }
}

fn number(name: &CStr) -> Option<RawFd> {
    std::str::from_utf8(name.to_bytes()).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_are_descriptors() {
        assert_eq!(number(c"1048575"), Some(1_048_575));
        assert_eq!([number(c"."), number(c".."), number(c"")], [None; 3]);
    }
}
