use std::sync::atomic::{AtomicI64, Ordering};

use super::*;
use crate::identity::{Address, AgentKey};

/// A limiter whose time stands still until it is told to go on.
struct House {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    seconds: Arc<AtomicI64>,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("s")).unwrap());
        Self { dir, store, seconds: Arc::default() }
    }

    fn limiter(&self, config: &str) -> RateLimiter {
        let config = crate::config::Config::parse(config, std::path::Path::new("c")).unwrap().rate;
        let seconds = self.seconds.clone();
        let clock = move || {
            let passed = seconds.load(Ordering::Relaxed);
            Now { boot: (1000 + passed) * 1_000_000_000, unix: 1_800_000_000 + passed }
        };
        let registered = |address: &str| match address {
            "small@x.y" => CallLimits { calls_per_minute: Some(2), calls_per_day: Some(3) },
            _ => CallLimits::default(),
        };
        RateLimiter::with_clock(&config, self.store.clone(), Box::new(clock), Box::new(registered)).unwrap()
    }

    fn pass(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }
}

fn agent(text: &str) -> Lineage {
    let address: Address = text.parse().unwrap();
    Lineage::top(&address, &AgentKey::generate().unwrap().public(), None)
}

/// `child` acts for `root`.
fn below(root: &str, child: &str) -> Lineage {
    let (mut lineage, child) = (agent(root), agent(child));
    lineage.hops.extend(child.hops);
    lineage
}

fn today(limiter: &RateLimiter, whose: &str) -> u64 {
    limiter.uses().into_iter().find(|rate| rate.whose.to_string() == whose).map_or(0, |rate| rate.today)
}

#[test]
fn the_burst_is_all_that_goes_through_at_once_and_the_wait_is_told() {
    let house = House::new();
    let limiter = house.limiter("[rate]\ncalls_per_minute = 6\nburst = 3\n");
    let (a, b) = (agent("a@x.y"), agent("b@x.y"));
    for _ in 0..3 {
        limiter.take(&a, "s", "t").unwrap();
    }
    let over = limiter.take(&a, "s", "t").unwrap_err();
    assert_eq!((over.wait, over.whose.to_string().as_str()), (Duration::from_secs(10), "agent a@x.y"));
    assert_eq!(over.limit, "6 calls a minute, 3 at once");
    limiter.take(&b, "s", "t").unwrap();
    house.pass(10);
    limiter.take(&a, "s", "t").unwrap();
}

#[test]
fn a_call_takes_from_every_limit_or_from_none() {
    let house = House::new();
    let limiter = house.limiter(
        "[rate.server.s]\ncalls_per_day = 3\n[rate.tool.\"s:t\"]\ncalls_per_minute = 1\n[rate.agent.\"b@x.y\"]\ncalls_per_day = 1\n",
    );
    let (a, b) = (agent("a@x.y"), agent("b@x.y"));
    limiter.take(&a, "s", "t").unwrap();
    let over = limiter.take(&a, "s", "t").unwrap_err();
    assert_eq!((over.whose.to_string().as_str(), over.span), ("tool s:t", Span::Minute));
    assert_eq!((today(&limiter, "agent a@x.y"), today(&limiter, "server s")), (1, 1), "the refused one took nothing");
    limiter.take(&b, "s", "u").unwrap();
    assert_eq!(limiter.take(&b, "other", "u").unwrap_err().whose.to_string(), "agent b@x.y");
    limiter.take(&a, "s", "u").unwrap();
    // Of several, the one that lasts longest is told.
    let over = limiter.take(&a, "s", "t").unwrap_err();
    assert_eq!((over.whose.to_string().as_str(), over.limit.as_str()), ("server s", "3 calls a day"));
    limiter.take(&a, "other", "t").unwrap();
}

#[test]
fn sub_agents_use_up_what_their_parents_have() {
    let house = House::new();
    let limiter = house.limiter("[rate]\ncalls_per_minute = 60\nburst = 60\n[rate.agent.\"root@x.y\"]\nburst = 4\n");
    for child in ["c1@x.y", "c2@x.y"] {
        limiter.take(&below("root@x.y", child), "s", "t").unwrap();
        limiter.take(&below("root@x.y", child), "s", "t").unwrap();
    }
    for lineage in [below("root@x.y", "c3@x.y"), agent("root@x.y")] {
        assert_eq!(limiter.take(&lineage, "s", "t").unwrap_err().whose.to_string(), "agent root@x.y");
    }
    assert_eq!((today(&limiter, "agent root@x.y"), today(&limiter, "agent c3@x.y")), (4, 0));
    limiter.take(&agent("c3@x.y"), "s", "t").unwrap();
}

#[test]
fn what_an_agent_is_registered_for_narrows_and_never_widens() {
    let house = House::new();
    let limiter = house.limiter("[rate]\ncalls_per_minute = 60\nburst = 10\n");
    let small = agent("small@x.y");
    limiter.take(&small, "s", "t").unwrap();
    limiter.take(&small, "s", "t").unwrap();
    assert_eq!(limiter.take(&small, "s", "t").unwrap_err().limit, "2 calls a minute, 2 at once");
    house.pass(60);
    limiter.take(&small, "s", "t").unwrap();
    assert_eq!(limiter.take(&small, "s", "t").unwrap_err().limit, "3 calls a day");
    let narrow = house.limiter("[rate]\ncalls_per_minute = 1\nburst = 1\ncalls_per_day = 1\n");
    let whose = Whose::Agent("small@x.y".into());
    assert_eq!(narrow.words(&whose).unwrap().calls_per_day, Some(1));
    assert_eq!(narrow.words(&whose).unwrap().calls_per_minute, Some(1));
}

#[test]
fn what_was_used_outlives_the_daemon() {
    let house = House::new();
    let config = "[rate]\ncalls_per_minute = 1\nburst = 2\ncalls_per_day = 3\n";
    let limiter = house.limiter(config);
    let a = agent("a@x.y");
    limiter.take(&a, "s", "t").unwrap();
    limiter.take(&a, "s", "t").unwrap();
    drop(limiter);
    house.pass(20);
    let limiter = house.limiter(config);
    assert_eq!(limiter.take(&a, "s", "t").unwrap_err().wait, Duration::from_secs(40));
    house.pass(40);
    limiter.take(&a, "s", "t").unwrap();
    house.pass(3600);
    assert_eq!(limiter.take(&a, "s", "t").unwrap_err().span, Span::Day);
    drop(limiter);
    // The wall clock was set back over the restart.
    house.pass(-200_000);
    let limiter = house.limiter(config);
    assert_eq!(limiter.take(&a, "s", "t").unwrap_err().span, Span::Day);
    drop(limiter);
    house.pass(400_000);
    let limiter = house.limiter(config);
    assert!(limiter.uses().is_empty(), "what gives nothing back is forgotten");
    assert_eq!(house.store.list::<Row>().unwrap(), []);
}

#[test]
fn a_daemon_that_is_killed_gives_back_less_than_one_batch() {
    for (config, calls) in [("[rate]\ncalls_per_day = 1000\n", 333u64), ("[rate]\ncalls_per_day = 40\n", 21)] {
        let house = House::new();
        let limiter = house.limiter(config);
        let batch = limiter.limit(&Whose::Agent("a@x.y".into())).unwrap().batch();
        for n in 1..=calls {
            limiter.take(&agent("a@x.y"), "s", "t").unwrap();
            let kept = house.store.list::<Row>().unwrap().first().map_or(0, |row| row.used.today);
            assert!(n - kept < batch, "{kept} of {n} are on disk, the batch is {batch}");
        }
        limiter.write().unwrap();
        assert_eq!(house.store.list::<Row>().unwrap()[0].used.today, calls);
        // As `kill -9`: nothing is written at the end.
        std::mem::forget(limiter);
        assert_eq!(today(&house.limiter(config), "agent a@x.y"), calls);
    }
}

#[test]
fn agents_that_came_once_take_no_room_for_ever() {
    let house = House::new();
    let limiter = house.limiter("");
    for n in 0..MOST + 10 {
        limiter.table().insert(Whose::Agent(format!("a{n}@x.y")), Used::default());
    }
    limiter.take(&agent("a@x.y"), "s", "t").unwrap();
    assert_eq!(limiter.table().len(), 1);
    let _directory = &house.dir;
}
