//! What goes to stdout (data) and stderr (talk).
//!
//! Invariant: nothing that a server, a client or a process chose reaches a terminal raw. Control
//! characters, direction overrides and invisible characters are shown by their code points.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};

use comfy_table::{Attribute, Cell, Color, ContentArrangement, Table};
use serde::Serialize;

use super::error::CliError;

/// Text with everything that a terminal would obey or hide made visible, on one line.
pub fn visible(text: &str) -> String {
    escape(text, false)
}

/// The same, but line breaks and tabs stay.
pub fn visible_lines(text: &str) -> String {
    escape(text, true)
}

fn escape(text: &str, keep_lines: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' if keep_lines => out.push(c),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_hidden(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

/// Whether a terminal would obey this character, or show nothing for it.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// A command as one could paste it into a shell, never shortened.
pub fn shell(argv: &[impl AsRef<str>]) -> String {
    argv.iter().map(|arg| shell_word(arg.as_ref())).collect::<Vec<_>>().join(" ")
}

fn shell_word(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        return arg.to_owned();
    }
    if !arg.chars().any(is_hidden) {
        return format!("'{}'", arg.replace('\'', r"'\''"));
    }
    let mut quoted = String::from("$'");
    for c in arg.chars() {
        match c {
            '\'' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            '\n' => quoted.push_str("\\n"),
            c if is_hidden(c) => {
                let _ = write!(quoted, "\\U{:08x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// Data, with a line break.
pub fn line(text: impl AsRef<str>) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", text.as_ref()).and_then(|()| out.flush()).map_err(CliError::output)
}

/// Bytes of data as they are.
pub fn raw(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(CliError::output)
}

/// Talk. That nobody can hear it is no reason to fail.
pub fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
}

/// The one object of a listing: `{"schema": "lazaret.NOUN.v1", "FIELD": [...]}`.
pub fn listing(noun: &str, field: &str, items: &impl Serialize) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Head {
        schema: String,
    }
    let head = serde_json::to_string(&Head { schema: format!("lazaret.{noun}.v1") }).map_err(CliError::failed)?;
    let items = serde_json::to_string(items).map_err(CliError::failed)?;
    let field = serde_json::to_string(field).map_err(CliError::failed)?;
    line(format!("{},{field}:{items}}}", head.trim_end_matches('}')))
}

/// The one object of a verb that shows one thing: its members beside the schema.
pub fn object(noun: &str, value: &impl Serialize) -> Result<(), CliError> {
    #[derive(Serialize)]
    struct Object<'a, T: Serialize> {
        schema: String,
        #[serde(flatten)]
        value: &'a T,
    }
    let object = Object { schema: format!("lazaret.{noun}.v1"), value };
    line(serde_json::to_string(&object).map_err(CliError::failed)?)
}

/// One record of a stream.
pub fn json_line(value: &impl Serialize) -> Result<(), CliError> {
    line(serde_json::to_string(value).map_err(CliError::failed)?)
}

/// Whether stdout may carry colour.
pub fn colours() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A word in the colour of its tone, where stdout may carry one.
pub fn painted(word: &str, tone: Tone) -> String {
    let code = match tone {
        Tone::Good => 32,
        Tone::Doubtful => 33,
        Tone::Bad => 31,
        Tone::Plain => return word.to_owned(),
    };
    if colours() { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// How a cell's word is meant; only a terminal sees the colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Doubtful,
    Bad,
}

/// The tone of a state's word, the same everywhere.
pub fn tone_of(state: &str) -> Tone {
    match state {
        "approved" | "active" | "ok" | "adopted" | "permit" | "yes" => Tone::Good,
        "quarantined" | "pending" | "suspended" | "new" | "held" | "warn" | "observed" => Tone::Doubtful,
        "denied" | "revoked" | "fail" | "killed" | "deny" | "error" | "no" => Tone::Bad,
        _ => Tone::Plain,
    }
}

/// A table without lines: one row per thing, fit for `awk` when it is not a terminal.
pub struct Rows {
    table: Table,
    colours: bool,
    empty: bool,
}

impl Rows {
    pub fn new(header: &[&str]) -> Self {
        Self::with(header, std::io::stdout().is_terminal(), colours())
    }

    fn with(header: &[&str], terminal: bool, colours: bool) -> Self {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        // A serial console says that it is 0 or 1 columns wide.
        let wide = table.width().is_none_or(|columns| columns >= 40);
        let arrangement = if terminal && wide { ContentArrangement::Dynamic } else { ContentArrangement::Disabled };
        table.set_content_arrangement(arrangement);
        if !terminal {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|name| {
            let cell = Cell::new(name);
            if colours { cell.add_attribute(Attribute::Bold) } else { cell }
        }));
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        Self { table, colours, empty: true }
    }

    pub fn row<const N: usize>(&mut self, cells: [(String, Tone); N]) {
        self.empty = false;
        self.table.add_row(cells.into_iter().map(|(text, tone)| {
            let cell = Cell::new(if text.is_empty() { "-".to_owned() } else { visible(&text) });
            match tone {
                _ if !self.colours => cell,
                Tone::Plain => cell,
                Tone::Good => cell.fg(Color::Green),
                Tone::Doubtful => cell.fg(Color::Yellow),
                Tone::Bad => cell.fg(Color::Red),
            }
        }));
    }

    /// Prints it, or says `nothing` on stderr when there are no rows.
    pub fn print(&self, nothing: &str) -> Result<(), CliError> {
        if self.empty {
            say(nothing);
            return Ok(());
        }
        line(self.text())
    }

    fn text(&self) -> String {
        self.table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// A cell without a verdict in it.
pub fn plain(text: impl Into<String>) -> (String, Tone) {
    (text.into(), Tone::Plain)
}

/// A cell that holds a state.
pub fn state(text: impl Into<String>) -> (String, Tone) {
    let text = text.into();
    let tone = tone_of(&text);
    (text, tone)
}

/// `label   value` lines below each other, for the verbs that show one thing.
pub fn field(label: &str, value: impl AsRef<str>) -> Result<(), CliError> {
    line(format!("{label:<14}{}", visible(value.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_neutralises_what_a_terminal_would_obey() {
        let mut rows = Rows::with(&["NAME", "STATE"], false, false);
        rows.row([plain("evil\x1b[2J\u{202e}txt\nfake row\u{e0041}"), state("approved")]);
        let text = rows.text();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("evil\\u{1b}[2J\\u{202e}txt\\nfake row\\u{e0041}"), "{text}");
        assert!(!text.chars().any(|c| c != '\n' && is_hidden(c)));
    }

    #[test]
    fn a_table_off_a_terminal_never_breaks_a_row() {
        let mut rows = Rows::with(&["NAME", "COMMAND"], false, false);
        let long = "x".repeat(5000);
        rows.row([plain("a"), plain(&long)]);
        assert!(rows.text().contains(&long));
        assert_eq!(rows.text().lines().count(), 2);
    }

    #[test]
    fn commands_are_shown_so_that_a_shell_would_read_them_back() {
        assert_eq!(shell(&["npx", "-y", "@scope/pkg@1.2.3"]), "npx -y @scope/pkg@1.2.3");
        assert_eq!(shell(&["a b", "", "it's", "$(rm)"]), r"'a b' '' 'it'\''s' '$(rm)'");
        assert_eq!(shell(&["a\x1b'\\b"]), r"$'a\U0000001b\'\\b'");
    }

    proptest::proptest! {
        #[test]
        fn visible_text_has_nothing_hidden(text in "\\PC{0,40}|[\\x00-\\x{ffff}]{0,40}") {
            proptest::prop_assert!(!visible(&text).chars().any(is_hidden));
            proptest::prop_assert!(!shell(&[&text]).chars().any(is_hidden));
            proptest::prop_assert!(!visible_lines(&text).chars().any(|c| !"\n\t".contains(c) && is_hidden(c)));
        }
    }
}
