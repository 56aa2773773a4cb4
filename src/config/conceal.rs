//! The file's text as a report may show it: a line with a fault can hold a secret that somebody wrote there by mistake.
//!
//! A value is shown only under a key whose text is known to be harmless; all else, unknown keys included, is starred
//! out, and comments are left away. The scan needs no valid TOML: a half-typed secret must not show either.

use std::iter::Peekable;
use std::str::Chars;

use super::key::{self, Kind};

/// The text with as many lines and characters as before.
pub(super) fn conceal(text: &str) -> String {
    let mut scan = Scan {
        chars: text.chars().peekable(),
        out: String::with_capacity(text.len()),
        hide: true,
        fresh: true,
        depth: 0,
    };
    while scan.chars.peek().is_some() {
        scan.line();
    }
    scan.out
}

struct Scan<'t> {
    chars: Peekable<Chars<'t>>,
    out: String,
    /// Whether what stands here is starred out.
    hide: bool,
    /// Whether a key can begin here: at the start of a statement, after `{` and `,`.
    fresh: bool,
    /// How many brackets are open: a line end then does not end the value.
    depth: usize,
}

impl Scan<'_> {
    /// One statement: a header, or key and value up to the line end that closes it.
    fn line(&mut self) {
        // A header is shown, and a key; nothing else before a key has said what stands there.
        let ahead: Vec<char> = self.chars.clone().take_while(|c| *c != '\n').collect();
        let start = ahead.iter().find(|c| !c.is_whitespace());
        let header = start == Some(&'[') && !ahead.contains(&'=');
        self.hide = !header;
        self.fresh = !header;
        self.depth = 0;
        while let Some(c) = self.chars.next() {
            match c {
                '\n' => {
                    self.out.push(c);
                    if header || self.depth == 0 {
                        return;
                    }
                }
                '#' => self.comment(),
                '"' | '\'' => self.string(c, header),
                '[' | '{' | ']' | '}' => {
                    self.out.push(c);
                    self.fresh = c == '{';
                    self.depth = match c {
                        '[' | '{' => self.depth + 1,
                        _ => self.depth.saturating_sub(1),
                    };
                }
                c if is_word(c) => self.word(c, header),
                ',' | '=' => {
                    self.out.push(c);
                    self.fresh = c == ',' && self.depth > 0;
                }
                ' ' | '\t' | '\r' => self.out.push(c),
                c => {
                    self.out.push(if self.hide { '*' } else { c });
                    self.fresh = false;
                }
            }
        }
    }

    fn comment(&mut self) {
        self.out.push(' ');
        while let Some(c) = self.chars.next_if(|c| *c != '\n') {
            self.out.push(if c == '\r' { c } else { ' ' });
        }
    }

    /// A bare word: a key where `=` follows, else a value or part of one.
    fn word(&mut self, first: char, header: bool) {
        let mut word = String::from(first);
        while let Some(c) = self.chars.next_if(|c| is_word(*c)) {
            word.push(c);
        }
        self.settle(&word, header);
    }

    fn settle(&mut self, word: &str, header: bool) {
        let is_key = self.fresh && self.is_followed_by_equals();
        self.fresh = false;
        if is_key {
            self.hide = !is_harmless(word);
            self.out.push_str(word);
        } else if self.hide && !header {
            self.out.extend(word.chars().map(|_| '*'));
        } else {
            self.out.push_str(word);
        }
    }

    fn is_followed_by_equals(&self) -> bool {
        let mut ahead = self.chars.clone();
        ahead.find(|c| *c != ' ' && *c != '\t') == Some('=')
    }

    /// A string of any of TOML's four kinds. One that ends nowhere ends with its line, or the text.
    fn string(&mut self, quote: char, header: bool) {
        let mut ahead = self.chars.clone();
        let long = ahead.next() == Some(quote) && ahead.next() == Some(quote);
        self.out.push(quote);
        if long {
            self.chars.nth(1);
            self.out.extend([quote, quote]);
        }
        let mut body = String::new();
        let closed = loop {
            let Some(&c) = self.chars.peek() else {
                break false;
            };
            if c == '\n' && !long {
                break false;
            }
            self.chars.next();
            if c == quote && (!long || self.closes(quote)) {
                break true;
            }
            body.push(c);
            if c == '\\' && quote == '"' {
                body.extend(self.chars.next_if(|c| *c != '\n'));
            }
        };
        if closed && !long {
            self.settle(&body, header);
        } else {
            self.fresh = false;
            let hide = self.hide;
            let star = |c: char| if hide && c != '\n' { '*' } else { c };
            self.out.extend(body.chars().map(star));
        }
        if closed {
            self.out.push(quote);
            if long {
                self.out.extend([quote, quote]);
            }
        }
    }

    /// Takes the other two quotes of a long string's end.
    fn closes(&mut self, quote: char) -> bool {
        let mut ahead = self.chars.clone();
        let closes = ahead.next() == Some(quote) && ahead.next() == Some(quote);
        if closes {
            self.chars.nth(1);
        }
        closes
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | ':' | '/')
}

/// A key of the file whose text is never a secret, wherever the key stands. `connect-to` has free keys with a colon.
fn is_harmless(word: &str) -> bool {
    let last = word.rsplit('.').next().unwrap_or(word);
    let sections = key::sections();
    let known = || sections.iter().filter_map(|section| section.find(last));
    // `credential` is the name of a table and, in a route, a text: the text is what stands after a `=`.
    let plain = known().any(|key| key.kind.is_plain());
    let risky = known().any(|key| !key.kind.is_plain() && key.kind.sections().is_empty());
    let source = known().any(|key| matches!(key.kind, Kind::Source | Kind::Map(_)));
    let is_target = word.contains(':') && crate::host::Target::from_connect(word).is_ok();
    (plain && !risky && !source) || is_target
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_could_be_a_secret_does_not_show() {
        for text in [
            "value = \"hunter2\"",
            "value = hunter2",
            "value = \"hunter2",
            "value = 'hunter2'",
            "value = \"\"\"\nhunter2\n\"\"\"",
            "value = \"\"\"\nhunter2",
            "value = [\n  \"hunter2\",\n]",
            "pasword = \"hunter2\"",
            "x = { value = \"hunter2\", env = \"hunter2\" }",
            "credential.openai.static.value = \"hunter2\"",
            "\"value\" = \"hunter2\"",
            "\"value\"=\"hunter2\"",
            "static = \"hunter2\"",
            "env = \"hunter2\" # hunter2",
            "credential = \"a\" # was hunter2",
            "via = \"http://user:hunter2@proxy.example:3128\"",
            "tokens = { alice = \"hunter2\" }",
            "command = [\"curl\", \"-u\", \"u:hunter2\"]",
            "hunter2",
            "value \"hunter2\"",
            "value = \"a\\\"hunter2\"",
            "\"value = \"hunter2\"",
            "[value = \"hunter2\"",
            "value = \"hunter2\"=",
            "value = { env = \"hunter2\"= }",
        ] {
            let shown = conceal(text);
            assert!(!shown.contains("hunter2"), "{text} -> {shown}");
            assert_eq!(
                shown.chars().count(),
                text.chars().count(),
                "{text} -> {shown}"
            );
            assert_eq!(shown.lines().count(), text.lines().count(), "{text}");
        }
    }

    #[test]
    fn what_is_harmless_shows() {
        for text in [
            "credential = \"gihub\"",
            "hosts = [\n  \"api.example.com\",\n  \"b.example\"\n]",
            "[credential.openai.static]",
            "[[route]]",
            "inject = { header = \"x-api-key\", format = \"token {}\" }",
            "idle-timeout = 5",
            "when = { hours = \"08:00-18:00\", zone = \"Europe/Berlin\" }",
        ] {
            assert_eq!(conceal(text), text);
        }
    }
}
