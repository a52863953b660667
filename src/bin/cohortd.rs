//! `cohortd`: the supervisor of one app, under systemd (`serve`) or in the foreground (`run`).

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use cohortd::config::{Config, Kind, Memory, app_name};
use cohortd::control::Control;
use cohortd::keeper::Keeper;
use cohortd::listen::{self, Inherited, Socket};
use cohortd::relay::Reach;
use cohortd::route::Tls;
use cohortd::supervisor::estate::{self, Deposit, Estate, Left};
use cohortd::supervisor::{self, Handle, Heritage, Means, Output, RunError};
use cohortd::worker::cgroup::Delegated;
use cohortd::worker::spawn;
use cohortd::{exit, log, man, places, succession, systemd};
use rustix::process::{DumpableBehavior, geteuid, set_dumpable_behavior};
use tokio_util::task::AbortOnDropHandle;

/// A request through us takes some dozens of allocations (`docs/decisions`, 27).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// PM2's cluster mode, done by systemd: runs, routes to and relays between the workers of one app.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an app in the foreground, without systemd; Ctrl-C stops it
    Run {
        /// The app's configuration
        file: PathBuf,
    },
    /// Run an app as its systemd service does
    Serve {
        /// The app's configuration
        file: PathBuf,
        /// Only say whether this program could go on with what it is handed
        #[arg(long, hide = true)]
        rehearse: bool,
    },
    /// Become a worker's program
    #[command(name = spawn::EXEC, hide = true)]
    Exec {
        /// The program and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// What the service does after its end (ExecStopPost=)
    #[command(hide = true)]
    PostStop {
        /// It is stopped for good, in whatever state it was
        #[arg(long)]
        over: bool,
        /// The app's name
        app: String,
    },
    /// Print the man page
    #[command(hide = true)]
    Man,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Run { file } => run(&file, Output::Prefixed, false),
        Command::Serve { file, rehearse } => run(&file, Output::Inherit, rehearse),
        Command::Exec { command } => exit::failed(&spawn::exec(&command)),
        Command::PostStop { over, app } => post_stop(&app, over),
        Command::Man => match man::print(Arguments::command(), "8") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::failed(&error),
        },
    }
}

fn run(file: &Path, output: Output, rehearse: bool) -> ExitCode {
    let service = app_name(file).filter(|_| output == Output::Inherit && !rehearse);
    log::start(service.as_deref());
    raise_descriptor_limit();
    keep_to_ourselves();
    // Before any thread: it edits the environment.
    let mut inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => return exit::failed(&error),
    };
    let left = match Left::read(std::mem::take(&mut inherited.kept)) {
        Ok(left) => left,
        Err(error) if rehearse => return exit::failed(&error),
        Err(error) => {
            tracing::error!(%error, "can't go on with the workers of before: all are started anew");
            None
        }
    };
    // As it was read last: what has been written to the file since takes a reload.
    let text = left.as_ref().and_then(|left| left.contents.state.text());
    let config = match text {
        Some(text) => Config::load_text(file, text),
        None => Config::load(file),
    };
    let config = match config {
        Ok(config) => config,
        Err(error) => return exit::bad_config(&error),
    };
    let tls = match Tls::load(&config) {
        Ok(tls) => tls,
        Err(error) => return exit::bad_config(&error),
    };
    let reach = match Reach::load(&config) {
        Ok(reach) => reach,
        Err(error) => return exit::bad_config(&error),
    };
    if rehearse {
        return ExitCode::SUCCESS;
    }
    let delegated = match Delegated::take() {
        Ok(delegated) => delegated,
        Err(error) => {
            tracing::warn!(%error, "the delegated cgroup can't be used: workers share one");
            None
        }
    };
    if config.memory != Memory::default() && !delegated.as_ref().is_some_and(Delegated::has_memory)
    {
        tracing::warn!(
            "[memory] max is not in force, and recycle_at looks only every 5 s: this needs a \
             cgroup with the memory controller, delegated by systemd"
        );
    }
    if output == Output::Inherit && geteuid().is_root() {
        tracing::warn!("the workers run as root: give the app a user, cohortctl add --user NAME");
    }
    match output {
        Output::Inherit => systemd::unit_file::compare_schedule(&config),
        Output::Prefixed if config.reload.schedule().is_some() => {
            tracing::warn!(
                "[reload] schedule needs systemd's timer: nothing reloads this run by the clock"
            );
        }
        Output::Prefixed => {}
    }
    // In the foreground the workers end with us.
    let estate = (output == Output::Inherit && systemd::is_manager())
        .then(|| Estate::new(left.as_ref()))
        .transpose()
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "nothing is left to a successor");
            None
        });
    let sockets = match listen::open(&config.listen, inherited) {
        Ok(sockets) => sockets,
        Err(error) => return exit::failed(&error),
    };
    // Before the runtime: it may start threads.
    let keeper = estate.as_ref().filter(|_| config.kind == Kind::Node).and_then(|estate| {
        keep(estate, left.as_ref(), &sockets)
            .inspect_err(|error| tracing::warn!(%error, "no keeper: a kill costs more"))
            .ok()
    });
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    let app = config.app.clone();
    let marks = keeper.as_ref().map(|(keeper, _)| keeper.marks);
    let means = Means { tls, sockets, output, delegated, estate, left, reach, marks };
    let ended = runtime.block_on(run_with_control(config, means));
    if let Ok(Some(heritage)) = ended {
        // Its table would be a copy from then on, and keep open what the next program closes.
        drop(keeper);
        return succession::hand_on(&runtime, heritage);
    }
    drop(runtime); // and with it what is in the app's folder
    drop(keeper);
    places::leave(&app);
    match ended {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => exit::failed(&error),
    }
}

/// Starts a keeper, and leaves to a successor how it is asked.
fn keep(
    estate: &Arc<Estate>,
    left: Option<&Left>,
    sockets: &[Socket],
) -> io::Result<(Keeper, Deposit)> {
    let (keeper, asked) = Keeper::start(sockets.iter().map(Socket::place).collect())?;
    let deposit = estate.keep(estate::name_of_keeper(left), asked)?;
    Ok((keeper, deposit))
}

async fn run_with_control(config: Config, means: Means) -> Result<Option<Heritage>, RunError> {
    let (handle, asked) = Handle::new();
    let control = match Control::open(&config.app) {
        Ok(control) => Some(AbortOnDropHandle::new(tokio::spawn(control.serve(handle.clone())))),
        // Data and readiness don't depend on it.
        Err(error) => {
            tracing::warn!(%error, "no control socket: cohortctl can't speak to this app");
            None
        }
    };
    let bus = match means.output {
        Output::Inherit => systemd::dbus::start(&config.app, handle.clone())
            .inspect_err(|error| tracing::warn!(%error, "not on the system bus"))
            .ok(),
        Output::Prefixed => None,
    };
    let ended = supervisor::run(config, means, asked).await;
    drop(handle); // its other end was there until now
    if let (Ok(Some(_)), Some(bus)) = (&ended, bus) {
        // Nothing else may run in this process when another program takes its place.
        tokio::task::yield_now().await; // the last answers
        if let Some(control) = control {
            control.abort();
            let _ = control.await; // its path is free then, and not taken from who goes on
        }
        bus.leave();
    }
    ended
}

/// As many descriptors as we may have: connections are bounded by it, and the default of 1024 is
/// meant for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Nobody but root looks into this process: neither its memory, which has keys in it, nor its
/// environment, nor its descriptors. Workers have our user, and could. It leaves no core dump either.
fn keep_to_ourselves() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "workers can look into cohortd's memory");
    }
}

fn post_stop(app: &str, is_over: bool) -> ExitCode {
    log::start(None);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    let cleaned = runtime.block_on(async {
        match is_over {
            true => systemd::post_stop::end(app).await,
            false => systemd::post_stop::clean_up(app).await,
        }
    });
    match cleaned {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failed(&error),
    }
}
