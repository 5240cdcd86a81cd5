//! The command line: what may be said, and what each command does.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use indicatif::ProgressBar;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::os::fd_limit::{check_spare, explained, raise_limit};
use crate::os::sd_notify::Notifier;
use crate::run::demo;
use crate::run::{ExitReason, ProcessContext, ignore_signals, run};
use crate::server::{BindError, Inherited, ListenerProtocol, Listeners, from_systemd};
use crate::settings::{Flags, Layers, ListenAddress, LoadedSettings, SettingValue, Settings, SettingsError};
use crate::strategy::StrategyKind;
use crate::takeover::Predecessor;
use crate::telemetry::Telemetry;
use crate::{admin, output, simulate};

/// An HTTP redirect dispatcher: picks a backend for each visitor, answers 302, and is out of the way.
#[derive(Debug, Parser)]
#[command(name = "signpost", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Settings come in layers, later wins: built-in defaults, each --settings file, the environment\n\
(SIGNPOST__SERVER__WORKERS=2 for server.workers; SIGNPOST_BACKENDS=https://a,3*https://b), flags.\n\n\
Exit codes: 0 done, 1 could not run, 2 wrong usage or settings.")]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    start: Start,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve visitors (the default command).
    Serve(Start),
    /// Try it: a dispatcher and its backends on 127.0.0.1, nothing to configure.
    Demo(Demo),
    /// Validate the settings and print what is in effect, secrets masked, then warnings and a verdict.
    Check(Serve),
    /// Ask a running one whether it is ready; exit 0 or 1. For a container.
    Healthcheck(Healthcheck),
    /// Compare strategies on virtual time, with the visitors and backends of a scenario.
    Simulate(Simulate),
}

#[derive(Debug, Args)]
struct Start {
    #[command(flatten)]
    serve: Serve,
    /// Take the listeners over from the instance that runs with the same `admin.listen`, which then finishes what is
    /// under way and ends; no visitor notices.
    #[arg(long)]
    takeover: bool,
}

#[derive(Debug, Default, Args)]
struct Serve {
    /// A settings file in TOML; may be repeated, later ones win.
    #[arg(short, long, value_name = "FILE")]
    settings: Vec<PathBuf>,
    /// An address for clients, such as `[::]:8080`, or a port alone for all addresses; may be repeated.
    #[arg(short, long, value_name = "ADDR")]
    listen: Vec<String>,
    /// The address for metrics, health and API, such as `127.0.0.1:9090`, or a port alone for 127.0.0.1.
    #[arg(short, long, value_name = "ADDR")]
    admin: Option<String>,
    /// A backend of the pool `default`, such as `https://a.example.com` or `3*https://b.example.com` (weight 3); may
    /// be repeated.
    #[arg(short, long, value_name = "URL")]
    backend: Vec<String>,
    /// How the pool `default` picks, such as `random` [default: round_robin]
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Keep visitors of the pool `default` on one backend by a cookie.
    #[arg(long)]
    pin: bool,
}

#[derive(Debug, Args)]
struct Demo {
    /// How many backends to start.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(demo::MAX_BACKENDS)))]
    backends: u16,
    /// The address for visitors [default: 127.0.0.1:8080, or the next free port]
    #[arg(short, long, value_name = "ADDR")]
    listen: Option<String>,
    /// The address for metrics, health and API [default: 127.0.0.1:9090, or the next free port]
    #[arg(short, long, value_name = "ADDR")]
    admin: Option<String>,
    /// How to pick, such as `random` [default: round_robin]
    #[arg(long, value_name = "NAME")]
    strategy: Option<String>,
    /// Keep visitors on one backend by a cookie.
    #[arg(long)]
    pin: bool,
}

#[derive(Debug, Args)]
struct Healthcheck {
    /// A settings file that may say where the admin listener is.
    #[arg(short, long, value_name = "FILE")]
    settings: Vec<PathBuf>,
    /// The admin listener's address.
    #[arg(short, long, value_name = "ADDR")]
    admin: Option<String>,
}

#[derive(Debug, Args)]
struct Simulate {
    /// A scenario in TOML [default: ten backends of three sizes, a hundred visitors a second; see settings/scenarios]
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// A strategy to compare; may be repeated [default: all]
    #[arg(long, value_name = "NAME")]
    strategy: Vec<String>,
    /// The first seed. The same seed gives the same bytes.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many seeds, from the first on.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    seeds: u64,
    /// Write everything that came of it as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a page with the load over time.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Could not run.
const FAILED: u8 = 1;
/// Wrong usage or settings; clap's own code too.
const USAGE: u8 = 2;

/// Reads the arguments of the process and runs the command.
pub fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => {
            let is_service = matches!(cli.command, None | Some(Command::Serve(_) | Command::Demo(_)));
            exit_code(cli.run(), is_service)
        }
        // The text of --help and --version comes this way too, and is then a result on standard output.
        Err(error) if error.use_stderr() => {
            let _ = error.print();
            ExitCode::from(USAGE)
        }
        Err(text) => {
            exit_code(text.print().and_then(|()| output::print("")).map_err(CliError::unwritten), false)
        }
    }
}

/// How long the last message of a service may take: a log reader that stalls must not keep it from ending.
const LAST_MESSAGE: Duration = Duration::from_secs(1);

fn exit_code(done: Result<(), CliError>, is_service: bool) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError { code, text }) => {
            let text = if text.is_empty() { text } else { format!("{}\n", text.trim_end()) };
            if is_service {
                // Without a thread the message is lost; the exit code remains.
                let _ = output::run_within(LAST_MESSAGE, move || output::report(&text));
            } else {
                output::report(&text);
            }
            ExitCode::from(code)
        }
    }
}

impl Cli {
    fn run(self) -> Result<(), CliError> {
        match self.command {
            None => serve(self.start),
            Some(Command::Serve(start)) => serve(start),
            Some(Command::Check(flags)) => check(flags),
            Some(Command::Demo(flags)) => run_demo(flags),
            Some(Command::Healthcheck(flags)) => healthcheck(flags),
            Some(Command::Simulate(flags)) => run_simulation(&flags),
        }
    }
}

struct CliError {
    code: u8,
    text: String,
}

impl CliError {
    fn run(text: impl std::fmt::Display) -> Self {
        Self { code: FAILED, text: format!("signpost: {text}") }
    }

    /// The process could not start, or not go on.
    fn io(error: io::Error) -> Self {
        Self::run(explained(&error))
    }

    /// The result of a command could not be written. If the reader has gone, as `head` does, that needs no message.
    fn unwritten(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { code: FAILED, text: String::new() },
            _ => Self::run(format!("can't write to standard output: {error}")),
        }
    }

    fn listen(taken: &[BindError], advice: &str) -> Self {
        let lines: Vec<_> = taken.iter().map(|taken| format!("signpost: {taken}")).collect();
        Self { code: FAILED, text: lines.join("\n") + advice }
    }

    fn settings(problems: &[SettingsError]) -> Self {
        let count = counted(problems.len(), "problem");
        let lines: String = problems.iter().map(|problem| format!("  {problem}\n")).collect();
        Self { code: USAGE, text: format!("signpost: the settings have {count}:\n{lines}") }
    }
}

impl Serve {
    fn layers(self) -> Layers {
        Layers {
            text: None,
            files: self.settings,
            environment: std::env::vars_os().collect(),
            flags: Flags {
                listen: self.listen,
                admin: self.admin,
                backends: self.backend,
                strategy: self.strategy,
                pin: self.pin,
            },
        }
    }
}

fn load(layers: &Layers) -> Result<LoadedSettings, CliError> {
    Settings::load(layers).map_err(|problems| CliError::settings(&problems))
}

/// Prints the settings in effect, then the warnings, then a verdict.
fn check(flags: Serve) -> Result<(), CliError> {
    let names: Vec<_> = flags.settings.iter().map(|file| file.display().to_string()).collect();
    let names = if names.is_empty() { "settings".to_owned() } else { names.join(", ") };
    let loaded = match Settings::load(&flags.layers()) {
        Ok(loaded) => loaded,
        Err(problems) => {
            let lines: String = problems.iter().map(|problem| format!("error: {problem}\n")).collect();
            let text = format!("{lines}{names}: {}", counted(problems.len(), "error"));
            return Err(CliError { code: USAGE, text });
        }
    };
    let printed = output::print(&toml::to_string(&loaded.settings).map_err(CliError::run)?);
    let lines: String = loaded.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let count = match loaded.warnings.len() {
        0 => String::new(),
        count => format!(", {}", counted(count, "warning")),
    };
    output::report(&format!("{lines}{names}: valid{count}\n"));
    printed.map_err(CliError::unwritten)
}

/// Returns the count with its noun, in the plural if that is right.
fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn serve(Start { serve, takeover }: Start) -> Result<(), CliError> {
    // Before anything opens a descriptor or starts a thread. A successor's sockets come from its predecessor.
    let passed = if takeover { Ok(Inherited::default()) } else { from_systemd() };
    let notifier = Notifier::from_env().map_err(CliError::io)?;
    let runtime = runtime()?;
    let layers = serve.layers();
    let loaded = load(&layers)?;
    let telemetry = Telemetry::start(&loaded.settings.log).map_err(CliError::io)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_limit();
    let (predecessor, inherited) = if takeover {
        let admin = loaded.settings.admin.listen.0;
        let (predecessor, inherited) = runtime.block_on(Predecessor::meet(admin)).map_err(CliError::run)?;
        (Some(predecessor), inherited)
    } else {
        (None, passed.map_err(CliError::io)?)
    };
    let listeners = Listeners::open(&loaded.settings, inherited).map_err(|taken| {
        let is_taken = |taken: &BindError| taken.error.kind() == io::ErrorKind::AddrInUse;
        let advice = match taken.iter().any(is_taken) && !takeover {
            true => "\nsignpost: if it is a running signpost that this one is to replace, add --takeover",
            false => "",
        };
        CliError::listen(&taken, advice)
    })?;
    let family = ProcessContext { predecessor, notifier };
    let ended =
        run_server(&runtime, &loaded.settings, Some(layers), listeners, &telemetry, family, |_, _| {
            String::new()
        });
    // A file that never ends to be read, on a mount that hangs say, must not keep the process.
    runtime.shutdown_background();
    ended
}

/// Serves until told to leave. `invite` makes what is printed below the addresses.
fn run_server(
    runtime: &Runtime,
    settings: &Settings,
    layers: Option<Layers>,
    listeners: Listeners,
    telemetry: &Telemetry,
    family: ProcessContext,
    invite: impl FnOnce(SocketAddr, SocketAddr) -> String,
) -> Result<(), CliError> {
    let ready = |traffic: &[(ListenerProtocol, SocketAddr)], admin: SocketAddr| {
        let line = |(protocol, address): &(ListenerProtocol, SocketAddr)| match protocol {
            ListenerProtocol::Http => format!("listening on http://{address}\n"),
            ListenerProtocol::Tls => format!("listening on https://{address}\n"),
            ListenerProtocol::RedirectToHttps => format!("sending http://{address} to https\n"),
        };
        let lines: String = traffic.iter().map(line).collect();
        let first = traffic.first().map_or(admin, |(_, address)| *address);
        telemetry.announce(&format!("{lines}admin on http://{admin}\n{}", invite(first, admin)));
    };
    let serving = run(settings, layers, listeners, telemetry, family, ready);
    let ended = LocalSet::new().block_on(runtime, serving).map_err(CliError::io)?;
    match ended {
        ExitReason::Drained => Ok(()),
        ExitReason::CutShort => {
            tracing::warn!("shutdown_grace is over; what was still under way was cut short");
            Ok(())
        }
        ExitReason::AtOnce => Err(CliError::run("ended at once by a second signal")),
    }
}

fn run_demo(flags: Demo) -> Result<(), CliError> {
    let runtime = runtime()?;
    let backends = runtime.block_on(demo::start_backends(flags.backends)).map_err(CliError::io)?;
    let local = |first| match demo::free_port(first) {
        Some(port) => {
            if port != first {
                output::report(&format!("port {first} is in use, using {port}\n"));
            }
            Ok(format!("127.0.0.1:{port}"))
        }
        None => Err(CliError::run(format!("no port from {first} to {} is free", first + 99))),
    };
    let listen = flags.listen.map_or_else(|| local(8080), Ok)?;
    let admin = flags.admin.map_or_else(|| local(9090), Ok)?;
    let layers = Layers {
        flags: Flags {
            listen: vec![listen],
            admin: Some(admin),
            backends: backends.iter().map(|backend| format!("http://{}", backend.address)).collect(),
            strategy: flags.strategy,
            pin: flags.pin,
        },
        ..Layers::default()
    };
    let mut settings = load(&layers)?.settings;
    let of_demo = settings.pools.iter_mut().flat_map(|pool| &mut pool.backends);
    for (backend, started) in of_demo.zip(&backends) {
        backend.id = demo_id(started)?;
    }
    let telemetry = Telemetry::start(&settings.log).map_err(CliError::io)?;
    raise_limit();
    let listeners =
        Listeners::open(&settings, Inherited::default()).map_err(|taken| CliError::listen(&taken, ""))?;
    run_server(
        &runtime,
        &settings,
        None,
        listeners,
        &telemetry,
        ProcessContext::default(),
        |dispatcher, admin| demo::invitation(dispatcher, admin, &backends, flags.pin),
    )
}

fn demo_id(backend: &demo::DemoBackend) -> Result<crate::settings::BackendId, CliError> {
    SettingValue::parse(&backend.id).map_err(CliError::run)
}

fn healthcheck(flags: Healthcheck) -> Result<(), CliError> {
    let layers = Serve { settings: flags.settings, admin: flags.admin, ..Serve::default() }.layers();
    let ListenAddress(address) =
        Settings::load_admin(&layers).map_err(|problems| CliError::settings(&problems))?.listen;
    runtime()?.block_on(admin::healthcheck(address)).map_err(CliError::run)
}

fn run_simulation(flags: &Simulate) -> Result<(), CliError> {
    let _handles_signals = runtime()?;
    let usage = |text: String| CliError { code: USAGE, text: format!("signpost: {text}") };
    let scenario = match &flags.scenario {
        Some(path) => simulate::Scenario::read(path).map_err(usage)?,
        None => simulate::Scenario::default(),
    };
    let named = flags.strategy.iter().map(|name| {
        <StrategyKind as SettingValue>::parse(name)
            .map_err(|takes| format!("--strategy {name}: takes {takes}"))
    });
    let mut strategies: Vec<StrategyKind> = named.collect::<Result<_, _>>().map_err(usage)?;
    if strategies.is_empty() {
        strategies = StrategyKind::ALL.to_vec();
    }
    let seeds = flags.seed..flags.seed.saturating_add(flags.seeds);
    let visitors = simulate::visitors(&scenario, strategies.len(), flags.seeds);
    // Draws nothing where standard error is no terminal.
    let bar = ProgressBar::new(visitors);
    let compared = simulate::compare(&scenario, &strategies, seeds, &|came| bar.inc(came));
    bar.finish_and_clear();
    let compared = compared.map_err(CliError::run)?;
    let printed = output::print(&simulate::table(&compared));
    let write = |path: &Option<PathBuf>, text: String| match path {
        Some(path) => {
            std::fs::write(path, text).map_err(|error| CliError::run(format!("{}: {error}", path.display())))
        }
        None => Ok(()),
    };
    write(&flags.json, simulate::json(&scenario, &compared).map_err(CliError::run)? + "\n")?;
    write(&flags.html, simulate::page(&scenario, &compared))?;
    // Last, so that the files are written even if the table cannot be.
    printed.map_err(CliError::unwritten)
}

/// The runtime of everything that is not a request: signals, the admin listener, the demo's backends. From now on
/// signals such as `SIGUSR1` don't end the process.
fn runtime() -> Result<Runtime, CliError> {
    // Without descriptors for its signal handler tokio panics.
    check_spare().map_err(CliError::io)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CliError::io)?;
    runtime.block_on(async { ignore_signals() }).map_err(CliError::io)?;
    Ok(runtime)
}
