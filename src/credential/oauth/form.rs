//! A form body that holds secrets: wiped when it is dropped, and nothing unwiped left where it grows.

use bytes::Bytes;
use zeroize::Zeroizing;

/// `application/x-www-form-urlencoded`, being written.
#[derive(Clone)]
pub(in super::super) struct Form(Zeroizing<Vec<u8>>);

impl Form {
    /// The first field.
    pub(in super::super) fn new(name: &str, value: impl AsRef<[u8]>) -> Self {
        let mut form = Self(Zeroizing::new(Vec::with_capacity(2048)));
        form.push(name, value);
        form
    }

    /// One more field.
    pub(in super::super) fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        // Each byte becomes three at most.
        let needed = self.0.len() + 3 * (name.len() + value.len()) + 2;
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        encode(&mut self.0, name.as_bytes());
        self.0.push(b'=');
        encode(&mut self.0, value);
    }

    /// As a request's body, which is wiped too.
    pub(in super::super) fn into_body(self) -> Bytes {
        Bytes::from_owner(self.0)
    }
}

/// Appends `bytes` in the form's encoding (URL Standard, "application/x-www-form-urlencoded serializing").
pub(super) fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    for piece in form_urlencoded::byte_serialize(bytes) {
        out.extend_from_slice(piece.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_back_is_what_was_put_in() {
        let long = "x+/=&%".repeat(2000);
        let mut form = Form::new("grant_type", "client_credentials");
        form.push("scope", "a b");
        form.push("client_secret", &long);
        let body = form.into_body();
        let read: Vec<_> = form_urlencoded::parse(&body).into_owned().collect();
        assert_eq!(
            read,
            [
                ("grant_type".into(), "client_credentials".into()),
                ("scope".into(), "a b".into()),
                ("client_secret".to_owned(), long),
            ]
        );
    }
}
