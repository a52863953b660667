//! `cohortd`: the supervisor of one app, under systemd (`serve`) or in the foreground (`run`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use cohortd::config::{Config, Memory, app_name};
use cohortd::control::Control;
use cohortd::listen::{self, Inherited, Socket};
use cohortd::route::Tls;
use cohortd::supervisor::{self, Handle, Output, RunError};
use cohortd::worker::cgroup::Delegated;
use cohortd::worker::spawn;
use cohortd::{exit, log, man, places, systemd};

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
        Command::Run { file } => run(&file, Output::Prefixed),
        Command::Serve { file } => run(&file, Output::Inherit),
        Command::Exec { command } => exit::failed(&spawn::exec(&command)),
        Command::PostStop { app } => post_stop(&app),
        Command::Man => match man::print(Arguments::command(), "8") {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::failed(&error),
        },
    }
}

fn run(file: &std::path::Path, output: Output) -> ExitCode {
    let service = app_name(file).filter(|_| output == Output::Inherit);
    log::start(service.as_deref());
    raise_descriptor_limit();
    // Before any thread: it edits the environment.
    let inherited = match Inherited::take() {
        Ok(inherited) => inherited,
        Err(error) => return exit::failed(&error),
    };
    let config = match Config::load(file) {
        Ok(config) => config,
        Err(error) => return exit::bad_config(&error),
    };
    let tls = match Tls::load(&config) {
        Ok(tls) => tls,
        Err(error) => return exit::bad_config(&error),
    };
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
    match output {
        Output::Inherit => systemd::unit_file::compare_schedule(&config),
        Output::Prefixed if config.reload.schedule().is_some() => {
            tracing::warn!(
                "[reload] schedule needs systemd's timer: nothing reloads this run by the clock"
            );
        }
        Output::Prefixed => {}
    }
    let sockets = match listen::open(&config.listen, inherited) {
        Ok(sockets) => sockets,
        Err(error) => return exit::failed(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    let app = config.app.clone();
    let ended = runtime.block_on(run_with_control(config, tls, sockets, output, delegated));
    drop(runtime); // and with it what is in the app's folder
    places::leave(&app);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failed(&error),
    }
}

async fn run_with_control(
    config: Config,
    tls: Option<Tls>,
    sockets: Vec<Socket>,
    output: Output,
    delegated: Option<Delegated>,
) -> Result<(), RunError> {
    let (handle, asked) = Handle::new();
    match Control::open(&config.app) {
        Ok(control) => drop(tokio::spawn(control.serve(handle.clone()))),
        // Data and readiness don't depend on it.
        Err(error) => {
            tracing::warn!(%error, "no control socket: cohortctl can't speak to this app")
        }
    }
    if output == Output::Inherit
        && let Err(error) = systemd::dbus::start(&config.app, handle.clone())
    {
        tracing::warn!(%error, "not on the system bus");
    }
    let ended = supervisor::run(config, tls, sockets, output, delegated, asked).await;
    drop(handle); // its other end was there until now
    ended
}

/// As many descriptors as we may have: connections are bounded by it, and the default of 1024 is
/// meant for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

fn post_stop(app: &str) -> ExitCode {
    log::start(None);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failed(&error),
    };
    match runtime.block_on(systemd::post_stop::close_socket_on_stop(app)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::failed(&error),
    }
}
