//! `lazaret doctor`: what is wrong, and how to mend it. Works without a daemon; what only the
//! daemon knows is then left out.

mod daemon;
mod host;
mod remote;

use serde::Serialize;

use super::args::read::DoctorArgs;
use super::instance::Instance;
use super::out::{self, Tone};
use super::{CliError, talk};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    pub detail: String,
    /// What to do; absent where nothing is wrong.
    pub remedy: Option<String>,
}

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, detail: detail.into(), remedy: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

pub async fn run(instance: &Instance, args: &DoctorArgs) -> Result<(), CliError> {
    let mut checks = host::checks(instance);
    {
        let _progress = (!args.json.json).then(|| talk::Progress::start("Looking at the daemon and at Docker"));
        checks.extend(daemon::checks(instance).await);
        checks.extend(remote::checks(instance).await);
    }
    if args.json.json {
        out::listing("doctor", "checks", &checks)?;
    } else {
        checks.iter().try_for_each(print)?;
    }
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    let warned = checks.iter().filter(|check| check.verdict == Verdict::Warn).count();
    out::say(format!("{} checks: {failed} failed, {warned} to look at.", checks.len()));
    if failed > 0 { Err(CliError::Negative) } else { Ok(()) }
}

fn print(check: &Check) -> Result<(), CliError> {
    let (word, tone) = match check.verdict {
        Verdict::Ok => ("ok  ", Tone::Good),
        Verdict::Warn => ("warn", Tone::Doubtful),
        Verdict::Fail => ("FAIL", Tone::Bad),
    };
    out::line(format!("{} {:<17}{}", out::painted(word, tone), check.name, out::visible(&check.detail)))?;
    match &check.remedy {
        Some(remedy) => out::line(format!("     {:<17}-> {}", "", out::visible(remedy))),
        None => Ok(()),
    }
}
