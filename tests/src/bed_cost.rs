//! What the kernel programs cost, beside what they may cost: `cargo xtask bench kernel`.
//!
//! Invariant: a budget that is missed is reported as missed, with the figure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::qemu::Boot;

/// Two runs of the same thing differ by so much; what differs by less costs nothing that this can show.
const NOISE: f64 = 0.002;

/// Operations with a budget, as a share of what they take without Lazaret. All others are only shown.
const BUDGETS: [(&str, f64); 6] = [
    ("exec", 0.015),
    ("getppid", 0.0),
    ("zero-read", 0.0),
    ("zero-write", 0.0),
    ("file-read", 0.0),
    ("file-write", 0.0),
];

/// Where the measured process stood.
const STATES: [(&str, &str); 3] =
    [("in-cgroup-scope", "in scope"), ("in-host-scope", "host in scope"), ("outside-of-scope", "out of scope")];

/// One operation in one state.
#[derive(Debug)]
struct Cost {
    operation: String,
    state: &'static str,
    /// Instructions.
    without: f64,
    with: f64,
}

impl Cost {
    fn more(&self) -> f64 {
        self.with / self.without - 1.0
    }

    fn budget(&self) -> Option<f64> {
        BUDGETS.iter().find(|(operation, _)| *operation == self.operation).map(|(_, budget)| *budget)
    }

    fn is_met(&self) -> Option<bool> {
        self.budget().map(|budget| self.more() <= budget.max(NOISE))
    }
}

pub struct Costs {
    kernel: String,
    backend: String,
    costs: Vec<Cost>,
    storm: Option<Value>,
}

impl Costs {
    /// What a measurement reported. The error names a figure that is not there.
    pub fn of(boot: &Boot) -> Result<Self, String> {
        let mut figures: BTreeMap<(String, String), f64> = BTreeMap::new();
        let mut order: Vec<String> = Vec::new();
        let mut storm = None;
        for text in &boot.figures {
            let figure: Value = serde_json::from_str(text).map_err(|e| format!("the figure {text} is no JSON: {e}"))?;
            if let Some(fate) = figure.get("storm") {
                storm = Some(fate.clone());
                continue;
            }
            let word = |name: &str| figure[name].as_str().map(str::to_owned).ok_or(format!("{text} has no {name}"));
            let (state, operation) = (word("state")?, word("operation")?);
            let instructions = figure["instructions"].as_f64().ok_or(format!("{text} has no count"))?;
            if state == "without" {
                order.push(operation.clone());
            }
            figures.insert((operation, state), instructions);
        }
        let of = |operation: &str, state: &str| {
            let figure = figures.get(&(operation.to_owned(), state.to_owned())).copied();
            figure.ok_or_else(|| format!("{operation} was not measured {state}; log: {}", boot.log.display()))
        };
        let mut costs = Vec::new();
        for operation in order {
            for (state, _) in STATES {
                let (without, with) = (of(&operation, "without")?, of(&operation, state)?);
                costs.push(Cost { operation: operation.clone(), state, without, with });
            }
        }
        Ok(Self { kernel: boot.kernel.clone(), backend: boot.backend.clone(), costs, storm })
    }

    pub fn json(&self) -> Value {
        let operations: Vec<Value> = self
            .costs
            .iter()
            .map(|cost| {
                json!({"operation": cost.operation, "state": cost.state, "instructions_without": cost.without,
                    "instructions_with": cost.with, "ratio": cost.with / cost.without,
                    "budget": cost.budget().map(|budget| 1.0 + budget), "met": cost.is_met()})
            })
            .collect();
        json!({"schema": "lazaret.kernel-cost.v1", "kernel": self.kernel, "backend": self.backend,
            "operations": operations, "storm": self.storm,
            "wrong_verdicts": self.storm.as_ref().map(wrong_verdicts)})
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "instructions per operation, backend {} on {}\n\n{:<22}{:>10}",
            self.backend, self.kernel, "operation", "without"
        );
        for (_, heading) in STATES {
            let _ = write!(text, "{heading:>24}");
        }
        let _ = writeln!(text, "   budget");
        for costs in self.costs.chunks(STATES.len()) {
            let _ = write!(text, "{:<22}{:>10.0}", costs[0].operation, costs[0].without);
            for cost in costs {
                let _ = write!(text, "{:>14.0} {:>+8.2}%", cost.with, cost.more() * 100.0);
            }
            let _ = match costs[0].budget() {
                None => writeln!(text, "   none"),
                Some(budget) => {
                    let missed: Vec<&str> =
                        costs.iter().filter(|c| c.is_met() == Some(false)).map(|c| c.state).collect();
                    let outcome =
                        if missed.is_empty() { "met".into() } else { format!("MISSED {}", missed.join(", ")) };
                    writeln!(text, "   {:+.1}%: {outcome}", budget * 100.0)
                }
            };
        }
        let _ = writeln!(text, "\na difference below {:.1}% is noise", NOISE * 100.0);
        if let Some(storm) = &self.storm {
            let _ = writeln!(
                text,
                "storm of {} execs: {} of {} servers ran, {} of {} other programs were stopped: {} wrong verdicts \
                 (budget 0); lost events {}, unreadable events {}",
                storm["execs"],
                storm["servers_that_ran"],
                storm["servers"],
                storm["programs_that_were_stopped"],
                storm["programs"],
                wrong_verdicts(storm),
                storm["lost_events"],
                storm["bad_events"],
            );
        }
        text
    }
}

fn wrong_verdicts(storm: &Value) -> u64 {
    let count = |name: &str| storm[name].as_u64().unwrap_or(0);
    count("servers_that_ran").max(u64::from(storm["a_server_left_a_trace"] == true))
        + count("programs_that_were_stopped")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(exec_in_scope: f64) -> Boot {
        let mut figures = Vec::new();
        for (operation, count) in [("exec", 300_000.0), ("pipe-text-4k", 5000.0)] {
            for state in ["without", "in-cgroup-scope", "in-host-scope", "outside-of-scope"] {
                let more = if operation == "exec" && state == "in-cgroup-scope" { exec_in_scope } else { 1.0 };
                figures.push(json!({"state": state, "operation": operation, "instructions": count * more}).to_string());
            }
        }
        figures.push(
            json!({"storm": {"execs": 100, "servers": 1, "servers_that_ran": 0, "programs": 99,
                "programs_that_were_stopped": 2, "a_server_left_a_trace": true, "lost_events": 7, "bad_events": 0}})
            .to_string(),
        );
        let (kernel, backend, log) = ("6.12".into(), "lsm".into(), "log".into());
        Boot { kernel, backend, results: Vec::new(), figures, log }
    }

    #[test]
    fn a_missed_budget_is_called_missed_and_a_trace_is_a_wrong_verdict() {
        let costs = Costs::of(&boot(1.016)).expect("all figures are there");
        let text = costs.text();
        assert!(text.contains("+1.60%") && text.contains("MISSED in-cgroup-scope"), "{text}");
        assert!(text.contains("3 wrong verdicts"), "{text}");
        assert_eq!(costs.json()["operations"][0]["met"], false);
        let text = Costs::of(&boot(1.014)).expect("all figures are there").text();
        assert!(text.contains("+1.5%: met"), "{text}");
    }

    #[test]
    fn a_figure_that_is_missing_is_an_error() {
        let mut boot = boot(1.0);
        boot.figures.remove(1);
        assert!(Costs::of(&boot).is_err());
    }
}
