//! Cuts a text into words outside of quotes and comments, by the rules of one database.

/// Where databases differ.
pub(super) struct Dialect {
    /// `\'` inside of a string is a quote that does not end it.
    backslash: bool,
    /// `#` starts a comment, and `--` only with white space behind it.
    mysql_comments: bool,
    /// `/* /* */ */` is one comment.
    nested: bool,
    /// `$tag$ ... $tag$` and `E'...'`.
    dollar: bool,
    /// `[name]`.
    brackets: bool,
    /// `` `name` ``.
    backticks: bool,
    /// Nothing quotes.
    unquoted: bool,
}

/// Longer names are no function's, and a file's begins like this too.
const LONGEST_NAME: usize = 256;

const PLAIN: Dialect = Dialect {
    backslash: false,
    mysql_comments: false,
    nested: false,
    dollar: false,
    brackets: false,
    backticks: false,
    unquoted: false,
};

/// No database: what stands in quotes is read too.
pub(super) const UNQUOTED: Dialect = Dialect { unquoted: true, ..PLAIN };

/// MySQL, MySQL with NO_BACKSLASH_ESCAPES, PostgreSQL, SQLite, SQL Server, BigQuery and the like.
pub(super) const DIALECTS: [Dialect; 6] = [
    Dialect { backslash: true, mysql_comments: true, backticks: true, ..PLAIN },
    Dialect { mysql_comments: true, backticks: true, ..PLAIN },
    Dialect { nested: true, dollar: true, ..PLAIN },
    Dialect { brackets: true, backticks: true, ..PLAIN },
    Dialect { nested: true, brackets: true, ..PLAIN },
    Dialect { backslash: true, backticks: true, ..PLAIN },
];

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// In lower case, and without quotes around it.
    Word(String),
    /// `(`.
    Open,
    /// Something outside of quotes that is in no ordinary statement.
    Strange,
    /// A string or a quoted name, in lower case and without its quotes; which of the two is the database's affair.
    Quoted(String),
    /// Numbers, operators.
    Other,
    /// `;`.
    End,
}

impl Token {
    pub(super) fn word(&self) -> Option<&str> {
        match self {
            Token::Word(word) => Some(word),
            _ => None,
        }
    }

    pub(super) fn quoted(&self) -> Option<&str> {
        match self {
            Token::Quoted(text) => Some(text),
            _ => None,
        }
    }
}

pub(super) struct Cut {
    tokens: Vec<Token>,
    /// Every string, name and comment ends.
    pub whole: bool,
    /// `/*! ... */` and `/*+ ... */`: MySQL runs the first, and both hide.
    pub executable_comment: bool,
}

impl Cut {
    /// Each statement that holds anything.
    pub(super) fn statements(&self) -> impl Iterator<Item = &[Token]> {
        self.tokens.split(|token| *token == Token::End).filter(|statement| !statement.is_empty())
    }
}

pub(super) fn cut(text: &str, dialect: &Dialect) -> Cut {
    let mut lexer = Lexer {
        whole: text,
        rest: text.trim_start_matches('\u{feff}'),
        dialect,
        cut: Cut { tokens: Vec::new(), whole: true, executable_comment: false },
    };
    while lexer.step() {}
    lexer.cut
}

struct Lexer<'a> {
    whole: &'a str,
    rest: &'a str,
    dialect: &'a Dialect,
    cut: Cut,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let Some(c) = self.rest.chars().next() else { return false };
        let rest = self.rest;
        match c {
            c if c.is_ascii_whitespace() || c == '\u{b}' => self.skip(1),
            '-' if self.line_comment() => self.skip_line(),
            '#' if self.dialect.mysql_comments => self.skip_line(),
            '/' if rest.starts_with("/*") => self.block_comment(),
            '\'' | '"' if self.dialect.unquoted => self.push(Token::Other, 1),
            '\'' => self.quoted('\'', self.dialect.backslash),
            // A string to MySQL, a name to the others.
            '"' => self.quoted('"', self.dialect.backslash),
            '`' if self.dialect.backticks => self.quoted('`', false),
            '[' if self.dialect.brackets => self.quoted(']', false),
            '$' if self.dialect.dollar && self.dollar_quoted() => {}
            ';' => self.push(Token::End, 1),
            '(' => self.push(Token::Open, 1),
            c if c.is_alphabetic() || c == '_' => self.word(),
            c if c.is_ascii_digit() => self.number(),
            c if c == '\\' || c.is_control() || !c.is_ascii() => self.push(Token::Strange, c.len_utf8()),
            // Parentheses around a statement are no part of it.
            ')' | ',' => self.push(Token::Other, 1),
            c => self.push(Token::Other, c.len_utf8()),
        }
        true
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn push(&mut self, token: Token, bytes: usize) {
        self.skip(bytes);
        self.cut.tokens.push(token);
    }

    fn line_comment(&self) -> bool {
        self.rest.strip_prefix("--").is_some_and(|behind| {
            !self.dialect.mysql_comments || behind.chars().next().is_none_or(|c| c.is_whitespace() || c.is_control())
        })
    }

    fn skip_line(&mut self) {
        // Some end the line at a lone carriage return: whatever stands behind it is read.
        self.skip(self.rest.find(['\n', '\r']).unwrap_or(self.rest.len()));
    }

    fn block_comment(&mut self) {
        self.cut.executable_comment |= self.rest.starts_with("/*!") || self.rest.starts_with("/*M!");
        let bytes = self.rest.as_bytes();
        let (mut at, mut depth) = (2, 1);
        while depth > 0 {
            match bytes.get(at..at + 2) {
                None => {
                    self.cut.whole = false;
                    at = bytes.len();
                    break;
                }
                Some(b"*/") => {
                    depth -= 1;
                    at += 2;
                }
                Some(b"/*") if self.dialect.nested => {
                    depth += 1;
                    at += 2;
                }
                Some(_) => at += 1,
            }
        }
        self.skip(at);
    }

    /// A quoted run, from its opening character to `end`; a doubled `end` is part of it.
    fn quoted(&mut self, end: char, backslash: bool) {
        let bytes = self.rest.as_bytes();
        let mut at = 1;
        loop {
            match bytes.get(at) {
                None => {
                    self.cut.whole = false;
                    at = bytes.len();
                    break;
                }
                Some(b'\\') if backslash => at += 2,
                Some(byte) if char::from(*byte) == end => {
                    at += 1;
                    if bytes.get(at) != Some(byte) {
                        break;
                    }
                    at += 1;
                }
                Some(_) => at += 1,
            }
        }
        let at = self.rest.floor_char_boundary(at.min(bytes.len()));
        let inner = self.rest[..at].strip_suffix(end).unwrap_or(&self.rest[..at]);
        let inner = inner.get(1..).unwrap_or_default();
        // `U&"\0061"` is written so that nobody reads it.
        let escaped = self.cut.tokens.ends_with(&[Token::Word("u".into()), Token::Other]) && self.before_is('&');
        let name = inner[..inner.floor_char_boundary(LONGEST_NAME)].to_lowercase();
        self.push(Token::Quoted(name), at);
        if escaped {
            self.cut.tokens.push(Token::Strange);
        }
    }

    /// Whether `c` stands right before what is cut next.
    fn before_is(&self, c: char) -> bool {
        self.whole[..self.whole.len() - self.rest.len()].ends_with(c)
    }

    fn dollar_quoted(&mut self) -> bool {
        let tag = self.rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map(|at| at + 1);
        let Some(tag) = tag.filter(|at| self.rest[*at..].starts_with('$')) else { return false };
        if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
        let tag = &self.rest[..=tag];
        match self.rest[tag.len()..].find(tag) {
            Some(end) => self.push(Token::Other, end + 2 * tag.len()),
            None => {
                self.cut.whole = false;
                self.push(Token::Other, self.rest.len());
            }
        }
        true
    }

    fn word(&mut self) {
        let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '@');
        let end = self.rest.find(|c: char| !inner(c)).unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        if self.dialect.dollar && word.eq_ignore_ascii_case("e") && self.rest[end..].starts_with('\'') {
            self.skip(end);
            return self.quoted('\'', true);
        }
        // Letters that only look like Latin ones, as full-width ones do, are folded by some databases.
        let odd = word
            .chars()
            .any(|c| matches!(c, '\u{ff00}'..='\u{ffef}' | '\u{1d400}'..='\u{1d7ff}' | '\u{17f}' | '\u{212a}'));
        let token = Token::Word(word.to_lowercase());
        self.push(token, end);
        if odd {
            self.cut.tokens.push(Token::Strange);
        }
    }

    fn number(&mut self) {
        // `1e5union` is a number and a word to MySQL: only digits belong to the number.
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.rest.len());
        self.push(Token::Other, end);
        let exponent = self.rest.strip_prefix(['e', 'E']).map_or(0, |behind| {
            let sign = behind.strip_prefix(['+', '-']).unwrap_or(behind);
            let digits = sign.find(|c: char| !c.is_ascii_digit()).unwrap_or(sign.len());
            if digits == 0 { 0 } else { 1 + behind.len() - sign.len() + digits }
        });
        self.skip(exponent);
    }
}
