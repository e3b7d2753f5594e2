//! `docs/EVASIONS.md`: which kernel stops which evasion, rendered from the results of the kernel tests.
//!
//! Invariant: the page says nothing that no run has shown. It is written from recorded results ([`crate::bed::record`])
//! alone, and every kernel test program compares its own rows with it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::bed::{self, Property, Verdict};
use crate::qemu::{self, BedError, Boot, Machine};

/// What a server, or who starts it, may try. The number of an evasion is its place, from 1.
pub const EVASIONS: [&str; 29] = [
    "the loader as the program: `ld.so prog`",
    "code as an argument or on stdin: `python -c`, `node -e`, `bash /dev/stdin`",
    "a script with a shebang line",
    "a program in memory: memfd with fexecve or execveat",
    "a program behind a descriptor: O_PATH, `/proc/self/fd/N`",
    "another name of the same program: symlink, hard link, rename, copy",
    "argv changed by a second thread during exec",
    "argv or name changed afterwards: PR_SET_MM_ARG, setproctitle, comm",
    "connect through io_uring, with SQPOLL too",
    "stdin read through io_uring",
    "other ways to read: readv, preadv2, recvmsg, recvfrom; splice or tee in between",
    "lineage broken: CLONE_PARENT, double fork and setsid, subreaper",
    "the leader thread ends and another thread execs",
    "a pid used again; maps filled up",
    "code put into an approved executable: LD_PRELOAD, LD_AUDIT, NODE_OPTIONS, PYTHONSTARTUP",
    "an approved pipe passed on over SCM_RIGHTS",
    "containers: `docker run -i`, docker.sock by hand, containerd, podman",
    "nsenter or `docker exec` into an approved container",
    "another parent: systemd-run, cron, at",
    "another view of the files: unshare, setns, chroot, a mount over an approved path",
    "bpf() tampering, unpinning, detaching by a process that is not root",
    "SIGKILL or SIGSTOP of the daemon",
    "a flood of the event ring",
    "servers that were running before the daemon",
    "other ways to be a program: binfmt_misc, 32 bit, static",
    "other shapes of stdio: FIFO, pty, abstract UNIX socket",
    "the message in disguise: byte-wise, padded, BOM, late keys, escaped keys, longer than 16 KiB",
    "AT_EXECVE_CHECK",
    "an approved server that starts another one",
];

/// Heading and machines of a column. Docker's guest is the same kernel with more memory and Docker in it.
struct Column {
    heading: &'static str,
    machines: &'static [&'static str],
    /// A host may be of any kind; its results stand here only if this is its backend.
    backend: Option<&'static str>,
}

const COLUMNS: [Column; 5] = [
    Column { heading: "lsm, 6.1", machines: &["6.1-lsm"], backend: None },
    Column { heading: "lsm, 6.12", machines: &["6.12-lsm", "6.12-lsm-docker"], backend: None },
    Column { heading: "tracing, 6.1", machines: &["6.1-no-lsm"], backend: None },
    Column { heading: "tracing, 6.12", machines: &["6.12-no-lsm", "6.12-no-lsm-docker"], backend: None },
    Column { heading: "tracepoint, hardened 6.18", machines: &["host"], backend: Some("tracepoint") },
];

const NOT_RUN: &str = "not run";
const NO_TEST: &str = "no test";
const GAP: &str = "gap";

/// One property and its cells, as the results or the page have them.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    evasions: Vec<u64>,
    twin: bool,
    cells: [String; COLUMNS.len()],
}

fn page() -> PathBuf {
    qemu::root().join("docs/EVASIONS.md")
}

/// Writes the page from the results that the last run of every kernel test left. Returns its path.
pub fn write() -> Result<PathBuf, BedError> {
    let (rows, kernels, gaps) = recorded(&bed::results_dir())?;
    let path = page();
    qemu::replace(&path, |new| std::fs::write(new, render(&rows, &kernels, &gaps)))?;
    Ok(path)
}

type Recorded = (BTreeMap<String, Row>, [Option<String>; COLUMNS.len()], Vec<String>);

fn recorded(dir: &Path) -> Result<Recorded, BedError> {
    let broken = |path: &Path, why: &dyn std::fmt::Display| {
        BedError::Broken(format!("cannot use the results in {}: {why}; run the kernel tests again", path.display()))
    };
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let mut kernels: [Option<String>; COLUMNS.len()] = Default::default();
    let mut gaps: Vec<String> = Vec::new();
    let files = std::fs::read_dir(dir).map_err(|e| broken(dir, &e))?;
    for path in files.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "json")) {
        let text = std::fs::read_to_string(&path).map_err(|e| broken(&path, &e))?;
        let results: Value = serde_json::from_str(&text).map_err(|e| broken(&path, &e))?;
        let column = column(&results["machine"], &results["backend"]);
        if let Some(column) = column {
            kernels[column] = results["kernel"].as_str().map(str::to_owned);
        }
        for result in results["results"].as_array().into_iter().flatten() {
            let name = result["property"].as_str().ok_or_else(|| broken(&path, &"a result names no property"))?;
            let row = rows.entry(name.to_owned()).or_insert_with(|| Row {
                evasions: result["evasions"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect(),
                twin: result["twin"] == true,
                cells: std::array::from_fn(|_| NOT_RUN.to_owned()),
            });
            let Some(column) = column else { continue };
            let (outcome, why) = (result["outcome"].as_str().unwrap_or_default(), result["why"].as_str());
            row.cells[column] = outcome.to_owned();
            if let (GAP, Some(why)) = (outcome, why) {
                let number = gaps.iter().position(|known| known == why).unwrap_or_else(|| {
                    gaps.push(why.to_owned());
                    gaps.len() - 1
                });
                row.cells[column] = format!("{GAP} {}", number + 1);
            }
        }
    }
    Ok((rows, kernels, gaps))
}

fn column(machine: &Value, backend: &Value) -> Option<usize> {
    COLUMNS.iter().position(|column| {
        machine.as_str().is_some_and(|machine| column.machines.contains(&machine))
            && column.backend.is_none_or(|wanted| backend == wanted)
    })
}

fn render(rows: &BTreeMap<String, Row>, kernels: &[Option<String>; COLUMNS.len()], gaps: &[String]) -> String {
    let mut page = String::from(
        "# Evasions, and which kernel stops them\n\n\
         Written by `cargo xtask evasions` from the results of the kernel tests, never by hand; the tests fail when\n\
         they and this page differ. Columns are backend and kernel. `ok`: every test of this evasion holds there.\n\
         `gap N`: the backend cannot do it, for the reason N below. `not run`: no result of that machine. `no test`:\n\
         nothing shows it.\n\n",
    );
    let kernels = COLUMNS.iter().zip(kernels);
    let kernels: Vec<String> =
        kernels.map(|(of, kernel)| format!("{} = {}", of.heading, kernel.as_deref().unwrap_or(NOT_RUN))).collect();
    let _ = writeln!(page, "Kernels of the last run: {}.", kernels.join("; "));
    for (twin, title) in [(false, "Stopped"), (true, "Benign twins, left alone")] {
        let _ = write!(page, "\n## {title}\n\n");
        heading(&mut page, "| | evasion |", "|--:|---|");
        for (i, evasion) in EVASIONS.iter().enumerate() {
            let of = rows.values().filter(|row| row.twin == twin && row.evasions.contains(&(i as u64 + 1)));
            let of: Vec<&Row> = of.collect();
            let cells: Vec<String> =
                (0..COLUMNS.len()).map(|column| all_of(of.iter().map(|row| row.cells[column].as_str()))).collect();
            let _ = writeln!(page, "| {} | {evasion} | {} |", i + 1, cells.join(" | "));
        }
        page.pop();
    }
    page.push_str(
        "\n\n## Every test\n\nBehind a name: the evasions that it shows to be stopped, or whose twin it is.\n\n",
    );
    heading(&mut page, "| test | evasions |", "|---|---|");
    for (name, row) in rows {
        let numbers: Vec<String> = row.evasions.iter().map(u64::to_string).collect();
        let twin = if row.twin { "twin of " } else { "" };
        let _ = writeln!(page, "| {name} | {twin}{} | {} |", numbers.join(", "), row.cells.join(" | "));
    }
    if !gaps.is_empty() {
        page.push_str("\n## Gaps\n\n");
    }
    for (i, gap) in gaps.iter().enumerate() {
        let _ = writeln!(page, "{}. {gap}", i + 1);
    }
    page
}

fn heading(page: &mut String, first: &str, rule: &str) {
    let headings: Vec<&str> = COLUMNS.iter().map(|column| column.heading).collect();
    let _ = writeln!(page, "{first} {} |\n{rule}{}", headings.join(" | "), "---|".repeat(COLUMNS.len()));
}

/// One cell for several tests: the worst of them.
fn all_of<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let rank = |cell: &str| match cell {
        "FAILED" => 3,
        "ok" => 1,
        NOT_RUN => 0,
        _ => 2,
    };
    cells.max_by_key(|cell| rank(cell)).unwrap_or(NO_TEST).to_owned()
}

/// The rows of "Every test", and the numbers of the evasions that have a row in both tables above it.
fn parse(page: &str) -> (BTreeMap<String, Row>, Vec<String>) {
    let mut rows = BTreeMap::new();
    let mut evasions = Vec::new();
    for line in page.lines().filter(|line| line.starts_with("| ")) {
        let fields: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [first, second, cells @ ..] = fields.as_slice() else { continue };
        let Ok(cells) = <[&str; COLUMNS.len()]>::try_from(cells) else { continue };
        if first.parse::<u8>().is_ok() {
            evasions.push(format!("{first} {second}"));
        } else if !first.is_empty() && *first != "test" {
            let (twin, numbers) = second.strip_prefix("twin of ").map_or((false, *second), |numbers| (true, numbers));
            let evasions = numbers.split(", ").filter_map(|number| number.parse().ok()).collect();
            rows.insert((*first).to_owned(), Row { evasions, twin, cells: cells.map(str::to_owned) });
        }
    }
    (rows, evasions)
}

/// Panics where the page says of `properties` what this run has not shown, or does not say what it has.
pub fn assert_page_says(machine: Machine, boot: &Boot, properties: &[Property]) {
    let text = std::fs::read_to_string(page()).unwrap_or_default();
    let (rows, _) = parse(&text);
    let column = column(&machine.label().into(), &boot.backend.as_str().into());
    let mut wrong: Vec<String> = Vec::new();
    for property in properties {
        let Some(row) = rows.get(property.name) else {
            wrong.push(format!("{} is not on it", property.name));
            continue;
        };
        if row.twin != property.twin
            || !row.evasions.iter().eq(property.evasions.iter().map(|n| u64::from(*n)).collect::<Vec<_>>().iter())
        {
            wrong.push(format!("{} shows other evasions", property.name));
        }
        let shown = match bed::judge(machine, boot, property.name) {
            Verdict::Holds => "ok",
            Verdict::Gap(_) => GAP,
            Verdict::NotRun(_) => NOT_RUN,
            Verdict::Broken(_) => "FAILED",
        };
        // What had not been seen to hold when the page was written may well hold here.
        let news =
            |column: usize| [NOT_RUN, "FAILED"].contains(&&*row.cells[column]) && shown == "ok" || shown == NOT_RUN;
        if let Some(column) = column
            && !news(column)
            && row.cells[column].split(' ').next() != shown.split(' ').next()
        {
            wrong.push(format!("{}: the page says {:?}, this run {shown:?}", property.name, row.cells[column]));
        }
    }
    assert!(
        wrong.is_empty(),
        "docs/EVASIONS.md does not say what {} shows; `cargo xtask evasions` writes it anew:\n{}",
        machine.label(),
        wrong.join("\n")
    );
}

/// Panics unless the page has every evasion, in both tables, and no gap list without a use.
pub fn assert_page_is_complete() {
    let text = std::fs::read_to_string(page()).unwrap_or_default();
    let (_, evasions) = parse(&text);
    let list: Vec<String> = EVASIONS.iter().enumerate().map(|(i, evasion)| format!("{} {evasion}", i + 1)).collect();
    assert_eq!(evasions, [&list[..], &list[..]].concat(), "docs/EVASIONS.md; `cargo xtask evasions` writes it anew");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(evasions: &[u64], twin: bool, cells: [&str; COLUMNS.len()]) -> Row {
        Row { evasions: evasions.to_vec(), twin, cells: cells.map(str::to_owned) }
    }

    #[test]
    fn what_was_rendered_is_parsed_back() {
        let rows = BTreeMap::from([
            ("a_loader".to_owned(), row(&[1], false, ["ok", "ok", "ok", NOT_RUN, "gap 1"])),
            ("a_twin".to_owned(), row(&[1, 2], true, ["ok"; COLUMNS.len()])),
            ("a_record".to_owned(), row(&[], false, ["ok"; COLUMNS.len()])),
        ]);
        let page = render(&rows, &Default::default(), &["it is so".to_owned()]);
        let (parsed, evasions) = parse(&page);
        assert_eq!(parsed, rows, "{page}");
        assert_eq!(evasions.len(), 2 * EVASIONS.len(), "{page}");
        assert!(
            page.contains("| 1 | the loader as the program: `ld.so prog` | ok | ok | ok | not run | gap 1 |"),
            "{page}"
        );
        assert!(page.contains("| 3 | a script with a shebang line | no test |"), "{page}");
    }

    #[test]
    fn the_worst_test_of_an_evasion_speaks_for_it() {
        assert_eq!(all_of(["ok", "gap 1", "not run"].into_iter()), "gap 1");
        assert_eq!(all_of(["ok", "FAILED", "gap 1"].into_iter()), "FAILED");
        assert_eq!(all_of(["ok", "not run"].into_iter()), "ok");
        assert_eq!(all_of([].into_iter()), "no test");
    }
}
