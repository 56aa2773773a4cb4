//! A strict reader of HTTP/1 messages, independent of the one under test.

/// One message, as it stood on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub start: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.start
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0)
    }

    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields
            .iter()
            .filter(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }
}

/// Reads the head that begins these bytes: the message without its body, and the head's length.
pub fn head(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let mut fields = Vec::new();
    for line in lines {
        if line.contains(['\r', '\n', '\0']) || line.starts_with([' ', '\t']) {
            return Err(format!("malformed line {line:?}"));
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("no colon in {line:?}"))?;
        if name.is_empty() || name.contains([' ', '\t']) {
            return Err(format!("malformed name {name:?}"));
        }
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    if start.contains(['\r', '\n', '\0']) {
        return Err(format!("malformed start line {start:?}"));
    }
    let body = Vec::new();
    Ok(Some((
        Message {
            start,
            fields,
            body,
        },
        end + 4,
    )))
}

/// Reads whole messages; what is left over at the end is returned as it is.
pub fn messages(mut bytes: &[u8]) -> Result<(Vec<Message>, Vec<u8>), String> {
    let mut found = Vec::new();
    while let Some((message, taken)) = one(bytes)? {
        found.push(message);
        bytes = &bytes[taken..];
    }
    Ok((found, bytes.to_vec()))
}

/// Reads one whole message.
pub fn one(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some((mut message, at)) = head(bytes)? else {
        return Ok(None);
    };
    let rest = &bytes[at..];
    let (lengths, codings) = (
        message.all("content-length"),
        message.all("transfer-encoding"),
    );
    if lengths.len() + codings.len() > 1 {
        return Err(format!("two framings in {message:?}"));
    }
    let is_answer = message.start.starts_with("HTTP/");
    let bodiless = is_answer && matches!(message.status(), 100..=199 | 204 | 304);
    let (body, taken) = if let (Some(length), false) = (lengths.first(), bodiless) {
        let length: usize = length
            .parse()
            .map_err(|_| format!("length in {message:?}"))?;
        if rest.len() < length {
            return Ok(None);
        }
        (rest[..length].to_vec(), length)
    } else if !codings.is_empty() {
        match chunked(rest)? {
            Some(read) => read,
            None => return Ok(None),
        }
    } else {
        (Vec::new(), 0)
    };
    message.body = body;
    Ok(Some((message, at + taken)))
}

/// A chunked body and its length on the wire; trailers and extensions are errors, since keyward sends none on HTTP/1.
fn chunked(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = memchr::memmem::find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("chunk size {line:?}"))?;
        at += end + 2;
        if bytes.len() < at + size + 2 {
            return Ok(None);
        }
        body.extend_from_slice(&bytes[at..at + size]);
        at += size;
        if &bytes[at..at + 2] != b"\r\n" {
            return Err("no line end behind a chunk".to_owned());
        }
        at += 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
