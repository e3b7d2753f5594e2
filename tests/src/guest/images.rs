//! Exec, other ways to be or to become a program: interpreters that are registered with the kernel, set-uid programs,
//! and an exec that is none.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::{Command, Stdio};

use super::bench::{Start, install, install_shadow, install_tracer, trace, traced};
use super::exec::{DEV, TRICK};
use super::place;
use super::report::{Check, Report, ensure};

/// Not a program by itself. Configured in `exec::write_configs`.
pub const FOREIGN: &str = "/opt/bin/configured-foreign";
const INTERPRETER: &str = "/opt/l/foreign-interpreter";
/// Registers the interpreter for files that start with `LZR` and the shell's name, and executes what follows the flags.
const REGISTER: &str = r#"mkdir -p /tmp/binfmt && mount -t binfmt_misc binfmt_misc /tmp/binfmt &&
    echo ":$0:M::LZR$0::/opt/l/foreign-interpreter:$1" >/tmp/binfmt/register && shift && exec "$@""#;

pub fn checks(report: &mut Report) {
    registered(report);
    set_uid(report);
    only_checked(report);
}

/// `Err` says why no interpreter can be registered here.
fn can_register() -> Result<(), String> {
    let known = || fs::read_to_string("/proc/filesystems").is_ok_and(|list| list.contains("binfmt_misc"));
    if known() {
        return Ok(());
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let version = release.split('.').take(2).collect::<Vec<_>>().join(".");
    let module = format!("/binfmt_misc/{version}.ko");
    let loaded = Command::new("insmod").arg(&module).stderr(Stdio::null()).status();
    let loaded = loaded.is_ok_and(|status| status.success()) && known();
    ensure(loaded, || format!("the kernel has no binfmt_misc, and cannot load {module}"))
}

/// Starts the file of that magic, with and without the interpreter's seeing what it was called.
fn foreign(name: &str, flags: &str, argument: &str) -> Check {
    install(FOREIGN, format!("LZR{name}").as_bytes())?;
    // On a host, what is registered must go with a user namespace of its own (Linux 6.7).
    let apart: &[&str] = if place::is_the_host() { &["unshare", "-U", "-r", "-m"] } else { &["unshare", "-m"] };
    let rest = ["sh", "-c", REGISTER, name, flags, FOREIGN, argument];
    Start::silent().run(&[apart, &rest].concat()).map(drop)
}

fn registered(report: &mut Report) {
    const STOPPED: &str = "a_registered_interpreter_does_not_hide_the_program";
    const TWIN: &str = "a_registered_interpreter_may_run_other_programs";
    if let Err(why) = can_register() {
        report.skip(STOPPED, &why);
        return report.skip(TWIN, &why);
    }
    let runs = |mark: &str, argument: &str| -> Result<Vec<bool>, String> {
        let each = ["", "P", "O"].map(|flags| {
            let mark = format!("{mark}{flags}");
            install_tracer(INTERPRETER, &mark)?;
            foreign(&mark, flags, argument)?;
            Ok(traced(&mark))
        });
        each.into_iter().collect()
    };
    report.check(STOPPED, || {
        let ran = runs("served", "--serve")?;
        ensure(!ran.contains(&true), || format!("it ran, by flags: {ran:?}"))
    });
    report.check(TWIN, || {
        let ran = runs("other", "--other")?;
        ensure(!ran.contains(&false), || format!("it left no trace, by flags: {ran:?}"))
    });
}

/// Installs a program that runs as root, whoever starts it.
pub fn install_set_uid() -> Result<&'static str, String> {
    const PATH: &str = "/opt/l/become";
    install(PATH, &fs::read("/bin/evader").map_err(|e| e.to_string())?)?;
    fs::set_permissions(PATH, fs::Permissions::from_mode(0o4755)).map_err(|e| e.to_string())?;
    Ok(PATH)
}

fn set_uid(report: &mut Report) {
    let start = |way: &str, program: &str, mark: &str| {
        let _ = fs::remove_file(trace(mark)); // of the way before
        install_tracer(program, mark)?;
        Start { uid: Some(DEV), ..Start::silent() }.run(&[install_set_uid()?, way, program, "--serve"])
    };
    const WAYS: [&str; 2] = ["plain", "become-root"];
    report.check("a_set_uid_program_does_not_hide_the_program", || {
        for way in WAYS {
            start(way, TRICK, "set-uid")?;
            ensure(!traced("set-uid"), || format!("{way}: it ran"))?;
        }
        Ok(())
    });
    report.check("a_set_uid_program_may_start_other_programs", || {
        for way in WAYS {
            start(way, "/opt/bin/honest", "set-uid-honest")?.left_alone()?;
            let owner = fs::metadata(trace("set-uid-honest")).map(|meta| meta.uid());
            ensure(matches!(owner, Ok(0)), || format!("{way}: it did not run as root: {owner:?}"))?;
        }
        Ok(())
    });
}

fn only_checked(report: &mut Report) {
    const APPROVES: &str = "an_exec_that_is_only_checked_gives_no_approval";
    const TWIN: &str = "asking_whether_a_server_may_be_executed_is_left_alone";
    let ask = |program: &str| -> Result<String, String> {
        Start::silent().run(&["evader", "checked", program, "--serve"])?.left_alone()?;
        fs::read_to_string(trace("checked")).map_err(|e| format!("it did not say what the kernel answered: {e}"))
    };
    if ask("/bin/evader").is_ok_and(|answer| answer.contains("Invalid argument")) {
        let why = "this kernel has no AT_EXECVE_CHECK (Linux 6.14)";
        report.skip(APPROVES, why);
        return report.skip(TWIN, why);
    }
    report.check(APPROVES, || {
        let shadow = install_shadow("only-checked")?;
        let mut command = shadow.command("read");
        command.extend(["--takes", "checked:/bin/lazaret"].map(str::to_owned));
        Start::sending("initialize").run(&command)?.unanswered()?;
        ensure(shadow.started() && !shadow.has_read(), || "it read the message, or never began".into())
    });
    report.check(TWIN, || {
        install_tracer(TRICK, "asked")?;
        let answer = ask(TRICK)?;
        ensure(answer == "done" && !traced("asked"), || format!("the kernel said {answer:?}, or it ran"))?;
        Start::silent().run(&[TRICK, "--serve"])?.stopped()
    });
}
