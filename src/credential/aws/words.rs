//! A command line taken apart into words, without a shell.

/// The words of `credential_process`, as the AWS SDKs split it: at blanks; quotes hold a word together, a backslash
/// holds the next character. `None` for a quote that does not end.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => {
                let next = rest.next()?;
                let word = word.get_or_insert_default();
                // Within quotes a backslash is itself, unless it holds a quote or another.
                if quote.is_some() && !matches!(next, '"' | '\\') {
                    word.push('\\');
                }
                word.push(next);
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn words_are_split_as_a_shell_would() {
        for (text, expected) in [
            ("/bin/a b  c", &["/bin/a", "b", "c"][..]),
            ("a \"b c\" 'd \"e'", &["a", "b c", "d \"e"]),
            ("a \"\" b", &["a", "", "b"]),
            (
                r#"a b\ c "d\"e" "f\g" 'h\i'"#,
                &["a", "b c", "d\"e", "f\\g", "h\\i"],
            ),
            ("a$HOME;b", &["a$HOME;b"]),
            ("  ", &[]),
        ] {
            assert_eq!(words(text).unwrap(), expected, "{text}");
        }
        for bad in ["a \"b", "a 'b", "a\\"] {
            assert_eq!(words(bad), None, "{bad}");
        }
    }
}
