//! Taking secrets out of answers, so that no answer of an upstream carries one back to the agent.
//!
//! [`Patterns`] are the secrets that an answer must not show, compiled; a [`Scrubber`] takes them out of a stream in
//! any cut, [`Patterns::scrub_value`] out of a header. What was hit is masked with as many bytes, so that every length
//! said elsewhere (`Content-Length`, gRPC's and WebSocket's framing) stays true.
//!
//! **The forms.** As it is; base64 and base64url at each of the three alignments, padded or not; hex of either case;
//! percent-encoded, with `+` for a space; escaped as in JSON; as HTML character references, numeric ones with up to
//! eight zeros before; UTF-16 of either byte order. Of the escaped forms any subset of the characters may be escaped,
//! in any mixture. In a field's name the letters are of any case. At the very end of a stream, a message or a value, a
//! beginning of eight bytes of a secret or more is masked too. Not searched for: another case, base64 broken into
//! lines, an encoding of an encoding (save escaped `+` and `/` of base64), and what anyone can make up (reversed,
//! rot13, encrypted): this is a net under the allow-list, not the wall.
//!
//! **The search.** Every form has some forty possible first four bytes. They are searched for with vector instructions,
//! and where one stands, an automaton of all forms reads on until nothing that it read may become a hit.
//!
//! **The bound.** Say that all forms together have S symbols. The automaton's state has at most one spot for each symbol
//! and each of the eighteen lengths of a begun escape, so a byte costs at most one step for each of these, and one look
//! into a table where the state and the byte were met before. What it hands over to be read alone goes a straight line of
//! at most S steps, once for each form and byte. What is followed over a cut steps once from each symbol at each byte. So
//! any input costs at most its length times a constant of the secrets, whatever they are; nothing is given up on the way.

mod decode;
mod escape;
mod form;
mod machine;
mod openings;
mod patterns;
mod sought;
mod stream;
mod watch;
mod websocket;

pub use decode::{DecodeError, Decoder, GRACE, PIECE, RATIO};
pub use patterns::Patterns;
pub use sought::{Shelf, Sought};
pub use stream::Scrubber;
pub use watch::{Source, Watch};
pub use websocket::{WebSocketError, WebSocketScrubber};

#[cfg(test)]
#[expect(
    clippy::format_collect,
    clippy::cast_possible_truncation,
    clippy::decimal_bitwise_operands,
    reason = "a test's oracle is written to be read"
)]
mod tests;
