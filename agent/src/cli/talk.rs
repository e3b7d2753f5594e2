//! Talking with the human on the terminal: progress of long work, questions, diffs.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::error::CliError;
use super::out;

/// A spinner on a terminal's stderr, plain lines otherwise.
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn start(what: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            out::say(out::visible(what));
            return Self { bar: None };
        }
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg} {elapsed}") {
            bar.set_style(style);
        }
        bar.set_message(out::visible(what));
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar: Some(bar) }
    }

    pub fn step(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(out::visible(text)),
            None => out::say(format!("  {}", out::visible(text))),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Asks on the terminal. Where there is none nobody can answer: then the command line is the
/// decision, since whoever wrote it named the verb and its object. What was shown stands above.
pub fn confirm(question: &str, yes: bool) -> Result<(), CliError> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        out::say(format!("{question} There is no terminal to ask on: the command stands as it was given."));
        return Ok(());
    }
    let mut talk = std::io::stderr().lock();
    write!(talk, "{question} [y/N] ").and_then(|()| talk.flush()).map_err(CliError::output)?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(CliError::failed)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => {
            out::say("Nothing was changed.");
            Err(CliError::Negative)
        }
    }
}
