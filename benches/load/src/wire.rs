//! One connection as a client sees it: TCP, CONNECT where there is a proxy, TLS, and HTTP/1.1 read by hand.

use std::{io, sync::Arc};

use load::Result;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How to reach the server under test.
pub struct Route {
    /// Where TCP goes: the proxy, or the server itself.
    pub addr: String,
    /// The bytes of the CONNECT request; none where `addr` is the server.
    pub connect: Option<String>,
    pub name: ServerName<'static>,
    pub tls: Arc<ClientConfig>,
}

pub type Tls = TlsStream<TcpStream>;

impl Route {
    pub async fn dial(&self) -> Result<Tls> {
        let mut tcp = TcpStream::connect(&self.addr).await?;
        tcp.set_nodelay(true)?;
        if let Some(connect) = &self.connect {
            tcp.write_all(connect.as_bytes()).await?;
            // A proxy sends nothing after this head before our ClientHello, so reading what is there ends with it.
            let mut head = Vec::with_capacity(512);
            while !head.ends_with(b"\r\n\r\n") {
                if tcp.read_buf(&mut head).await? == 0 {
                    return Err(format!(
                        "the proxy closed after {:?}",
                        String::from_utf8_lossy(&head)
                    )
                    .into());
                }
            }
            if head.get(9..12) != Some(b"200") {
                return Err(format!("CONNECT: {:?}", String::from_utf8_lossy(&head)).into());
            }
        }
        Ok(TlsConnector::from(self.tls.clone())
            .connect(self.name.clone(), tcp)
            .await?)
    }
}

/// An HTTP/1.1 connection that sends one prepared request again and again.
pub struct H1 {
    io: BufReader<Tls>,
    line: Vec<u8>,
}

enum Length {
    Exact(u64),
    Chunked,
}

impl H1 {
    pub fn new(tls: Tls) -> Self {
        Self {
            io: BufReader::with_capacity(64 * 1024, tls),
            line: Vec::with_capacity(256),
        }
    }

    async fn line(&mut self) -> Result<&[u8]> {
        self.line.clear();
        if self.io.read_until(b'\n', &mut self.line).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(self.line.trim_ascii_end())
    }

    async fn head(&mut self) -> Result<Length> {
        let status = self.line().await?;
        if status.get(9..12) != Some(b"200") {
            return Err(String::from_utf8_lossy(status).into_owned().into());
        }
        let mut length = None;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return length.ok_or_else(|| "an answer without a length".into());
            }
            let Some(colon) = line.iter().position(|b| *b == b':') else {
                continue;
            };
            let (name, value) = line.split_at(colon);
            let value = String::from_utf8_lossy(&value[1..]);
            if name.eq_ignore_ascii_case(b"content-length") {
                length = Some(Length::Exact(value.trim().parse()?));
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                length = Some(Length::Chunked);
            }
        }
    }

    /// Passes `size` bytes of the body to `each`, as they come.
    async fn span(&mut self, mut size: u64, each: &mut impl FnMut(&[u8])) -> Result<()> {
        while size > 0 {
            let part = self.io.fill_buf().await?;
            if part.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let part = &part[..part.len().min(usize::try_from(size).unwrap_or(usize::MAX))];
            each(part);
            let used = part.len();
            self.io.consume(used);
            size -= used as u64;
        }
        Ok(())
    }

    /// One request and its whole answer, which must be a 200.
    pub async fn request(&mut self, request: &[u8], mut each: impl FnMut(&[u8])) -> Result<()> {
        self.io.write_all(request).await?;
        self.io.flush().await?;
        match self.head().await? {
            Length::Exact(size) => self.span(size, &mut each).await,
            Length::Chunked => loop {
                let line = String::from_utf8_lossy(self.line().await?).into_owned();
                let size = u64::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)?;
                self.span(size, &mut each).await?;
                self.line().await?; // the chunk's end, or the empty trailer
                if size == 0 {
                    return Ok(());
                }
            },
        }
    }
}
