//! What many servers cost, as figures: `cargo bench --package lazaret-tests --bench life [-- APPROVED RUNNING]`. Not a
//! test: a slow machine is no failure. All servers are of one small image.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lazaret_tests::host::{self, House, Needs};

const AGENT: &str = "bench@ann.lazaret.local";
const APPROVED: usize = 200;
const RUNNING: usize = 50;
/// Reviews, and first calls, that are made at the same time.
const AT_ONCE: usize = 4;

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let approved = numbers.first().copied().unwrap_or(APPROVED);
    let running = numbers.get(1).copied().unwrap_or(RUNNING).min(approved);
    let Some(mut house) = House::or_skip(Needs::Docker) else { return };
    house.write_config(&format!("[sandbox]\nmax_running = {running}\n"));
    house.start("observe");
    house.ok(&["agent", "enroll", AGENT]);
    println!("resident memory of the daemon, no servers  {:>7.1} MiB", resident(&house));
    let image = host::life_image(&house, std::path::Path::new("/var/run/docker.sock"));

    let start = Instant::now();
    each(approved, |i| {
        let name = format!("life-{i}");
        house.ok(&["server", "add", &name, "--image", &image]);
        house.ok(&["server", "approve", &name, "--yes", "--no-start"]);
    });
    println!("{approved} servers reviewed and approved          {:>7.1} s", start.elapsed().as_secs_f64());
    println!("resident memory of the daemon, idle        {:>7.1} MiB", resident(&house));

    let start = Instant::now();
    each(running, |i| call(&house, i));
    println!("{running} servers started by their first calls    {:>7.1} s", start.elapsed().as_secs_f64());
    println!("containers that run                        {:>7}", house.containers().len());
    println!("resident memory of the daemon, {running} running  {:>7.1} MiB", resident(&house));

    let mut session = house.connect(AGENT);
    let mut times: Vec<Duration> = (0..running * 10)
        .map(|i| {
            let start = Instant::now();
            count(&mut session, i % running);
            start.elapsed()
        })
        .collect();
    times.sort();
    let at = |share: usize| times[times.len() * share / 100].as_secs_f64() * 1e3;
    println!("a call of one of {running}, warm                  p50 {:.2} ms, p99 {:.2} ms", at(50), at(99));

    if approved > running {
        let start = Instant::now();
        count(&mut session, running);
        println!("a call that needs another's room           {:>7.1} s", start.elapsed().as_secs_f64());
        println!("containers that run                        {:>7}", house.containers().len());
    }
    let start = Instant::now();
    house.stop();
    println!("all stopped                                {:>7.1} s", start.elapsed().as_secs_f64());
    println!("containers that are left                   {:>7}", house.containers().len());
}

fn each(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let worker = || {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            work(i);
        }
    };
    std::thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(worker))));
}

fn call(house: &House, server: usize) {
    count(&mut house.connect(AGENT), server);
}

fn count(session: &mut host::Peer, server: usize) {
    let answer = session.call_through(&format!("life-{server}"), "count", "{}");
    assert!(answer.contains(r#""isError""#) == answer.contains(r#""isError":false"#), "{answer}");
}

fn resident(house: &House) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", house.daemon_pid())).unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}
