//! `lazaret daemon`.

use std::io::IsTerminal as _;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::CliError;
use super::args::daemon::DaemonArgs;
use super::instance::Instance;
use crate::config::Config;
use crate::daemon::{self, DaemonError, DaemonOptions};
use crate::kernel::KernelError;

pub fn run(instance: &Instance, args: DaemonArgs) -> Result<(), CliError> {
    start_log();
    if args.detach {
        return detach(instance);
    }
    let config: Config = instance.config()?;
    let options = DaemonOptions {
        paths: instance.paths.clone(),
        config,
        mode: args.mode,
        scope: args.scope,
        detach_on_exit: args.detach_on_exit,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|e| {
        CliError::Failed(format!("cannot start the daemon: {e}; see the limits on threads and open files"))
    })?;
    runtime.block_on(daemon::run(options)).map_err(failure)
}

fn failure(error: DaemonError) -> CliError {
    let text = error.to_string();
    match error {
        DaemonError::Policy(_) | DaemonError::Kernel(KernelError::Scope { .. }) => CliError::Configuration(text),
        DaemonError::Directory { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            CliError::NotPermitted(text)
        }
        _ => CliError::Failed(text),
    }
}

fn detach(instance: &Instance) -> Result<(), CliError> {
    let removed = crate::kernel::detach_pinned(&instance.paths.bpf_dir).map_err(CliError::failed)?;
    super::out::say(match removed {
        0 => format!(
            "Nothing is pinned at {}; the kernel guards nothing of this instance.",
            instance.paths.bpf_dir.display()
        ),
        n => format!(
            "Removed {n} links and maps from {}; the kernel guards nothing of this instance any more.",
            instance.paths.bpf_dir.display()
        ),
    });
    Ok(())
}

/// The journal: on stderr, in colour for a person, `RUST_LOG` chooses what.
fn start_log() {
    let mut filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,lazaret=info"));
    // At debug these write request bodies down, and a server's environment is in one of them.
    for quiet in ["bollard=info", "hyper=info", "hyper_util=info"] {
        if let Ok(directive) = quiet.parse() {
            filter = filter.add_directive(directive);
        }
    }
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // Whoever read our stderr may be gone; that ends no daemon.
        .log_internal_errors(false);
    if is_the_journal() {
        return log.with_ansi(false).event_format(ForTheJournal).init();
    }
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    log.with_ansi(colours).init();
}

/// Whether systemd's journal reads our stderr (systemd.exec(5), `JOURNAL_STREAM`).
fn is_the_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|own| named == format!("{}:{}", own.st_dev, own.st_ino))
}

/// With the priority that `journalctl --priority` looks for (sd-daemon(3)), and without what the journal has itself.
struct ForTheJournal;

impl<S, N> FormatEvent<S, N> for ForTheJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// As syslog counts: smaller is worse.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}
