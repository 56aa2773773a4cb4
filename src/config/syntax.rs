//! Syntax errors: of each line the first, and none that only follow from another.

use toml::de::Error;

use super::fault::{Desk, Span};

/// Lays down the errors, and takes away what was judged in text that they make doubtful.
pub(super) fn tell(desk: &Desk, text: &str, errors: &[Error]) {
    let mut errors: Vec<(Span, &str)> = errors
        .iter()
        .map(|error| (error.span().unwrap_or(0..0), error.message()))
        .collect();
    errors.sort_by_key(|(span, _)| span.start);
    let unclosed = errors
        .iter()
        .any(|(_, message)| message.starts_with("unclosed"));
    errors.dedup_by_key(|(span, _)| line_of(text, span));
    // A bracket that never closes swallows the rest of the file: all that is said of the rest is noise.
    let within = |message: &str| message.contains("array") || message.contains("inline table");
    let first = errors
        .iter()
        .position(|(_, message)| within(message))
        .filter(|_| unclosed);
    if let Some(first) = first {
        errors.truncate(first + 1);
    }
    let lines: Vec<usize> = errors.iter().map(|(span, _)| line_of(text, span)).collect();
    desk.keep(|draft| {
        let doubtful = first.is_some() || draft.absence;
        !doubtful && !lines.contains(&line_of(text, &draft.span))
    });
    for (place, (span, message)) in errors.iter().enumerate() {
        match first {
            Some(first) if first == place => {
                let help = "a bracket opened here or above is never closed; what follows is judged when it is";
                desk.fault_with(span, message, help);
            }
            _ => desk.fault(span, message),
        }
    }
}

fn line_of(text: &str, span: &Span) -> usize {
    text.get(..span.start)
        .map_or(0, |before| before.matches('\n').count())
}
