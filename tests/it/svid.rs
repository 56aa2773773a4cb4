//! SPIFFE's other side: the authority of a trust domain, its SVIDs, and the Workload API of the agent on this machine.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::mpsc;

use super::trust::NOW;

/// The authority of a trust domain.
pub struct Domain {
    pub pem: String,
    pub der: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

pub struct Svid {
    pub der: Vec<u8>,
    pub pem: String,
    pub key: String,
}

/// A time as certificates have it, seconds from what the providers' clock says.
fn at(seconds: i64) -> time_of::Date {
    time_of::date(NOW + seconds)
}

/// Dates as `rcgen` takes them, by way of a year, a month and a day.
mod time_of {
    pub type Date = (i32, u8, u8);

    pub fn date(unix: i64) -> Date {
        let date = jiff::Timestamp::from_second(unix).unwrap();
        let date = date.to_zoned(jiff::tz::TimeZone::UTC).date();
        (
            date.year().into(),
            date.month().try_into().unwrap(),
            date.day().try_into().unwrap(),
        )
    }
}

pub fn set_life(params: &mut CertificateParams, from: i64, to: i64) {
    let ((y, m, d), (y2, m2, d2)) = (at(from), at(to));
    params.not_before = rcgen::date_time_ymd(y, m, d);
    params.not_after = rcgen::date_time_ymd(y2, m2, d2);
}

pub const DAY: i64 = 24 * 3600;

impl Domain {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://{name}").try_into().unwrap())];
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        set_life(&mut params, -900 * DAY, 900 * DAY);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        Self {
            pem: cert.pem(),
            der: cert.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    pub fn svid(&self, uris: &[&str]) -> Svid {
        self.svid_with(uris, |_| {})
    }

    pub fn svid_with(&self, uris: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Svid {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let uri = |uri: &&str| SanType::URI((*uri).try_into().unwrap());
        params.subject_alt_names = uris.iter().map(uri).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        set_life(&mut params, -900 * DAY, 800 * DAY);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Svid {
            der: cert.der().to_vec(),
            pem: cert.pem(),
            key: key.serialize_pem(),
        }
    }

    /// The SPIFFE JWK set of this domain, with these keys for JWT-SVIDs beside the root.
    pub fn bundle(&self, tokens: &[Value]) -> String {
        let mut keys = vec![json!({
            "use": "x509-svid", "kty": "EC", "crv": "P-256", "x": "", "y": "",
            "x5c": [STANDARD.encode(&self.der)],
        })];
        keys.extend(tokens.iter().cloned().map(|mut key| {
            key["use"] = json!("jwt-svid");
            key
        }));
        json!({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 60}).to_string()
    }
}

impl Svid {
    /// As upstreams note what was presented to them.
    pub fn serial(&self) -> String {
        super::upstream::serial(&[self.der.clone().into()])
    }

    /// Its key: PKCS#8 in DER.
    fn key_der(&self) -> Vec<u8> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        key.secret_der().to_vec()
    }
}

/// A field of protobuf that is bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    let low = u8::try_from(length & 0x7f).unwrap() | 0x80;
    let high = u8::try_from(length >> 7).unwrap();
    [&[number << 3 | 2, low, high][..], bytes].concat()
}

/// A map entry in this field.
pub fn entry(number: u8, name: &str, value: &[u8]) -> Vec<u8> {
    field(
        number,
        &[field(1, name.as_bytes()), field(2, value)].concat(),
    )
}

/// A message of gRPC.
pub fn message(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&[0][..], &length, content].concat()
}

/// `X509SVIDResponse`: these SVIDs of one domain, the default first, and other domains' bundles.
pub fn issuance(
    domain: &Domain,
    svids: &[(&str, &Svid)],
    federated: &[(&str, &Domain)],
) -> Vec<u8> {
    let svids = svids.iter().map(|(id, svid)| {
        let fields = [
            field(1, id.as_bytes()),
            field(2, &svid.der),
            field(3, &svid.key_der()),
            field(4, &domain.der),
        ];
        field(1, &fields.concat())
    });
    let federated = federated
        .iter()
        .map(|(name, domain)| entry(3, &format!("spiffe://{name}"), &domain.der));
    let all: Vec<Vec<u8>> = svids.chain(federated).collect();
    message(&all.concat())
}

/// The agent of SPIFFE on this machine, as far as it is asked for X.509-SVIDs.
pub struct WorkloadApi {
    state: Arc<Mutex<State>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// `None`: whoever asks has no identity.
    says: Option<Vec<u8>>,
    streams: Vec<mpsc::UnboundedSender<Said>>,
    asked: usize,
}

enum Said {
    Message(Vec<u8>),
    Denied,
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

impl WorkloadApi {
    pub fn serve(socket: &Path, says: Option<Vec<u8>>) -> Self {
        std::fs::remove_file(socket).ok();
        let listener = UnixListener::bind(socket).unwrap();
        let state = Arc::new(Mutex::new(State {
            says,
            ..State::default()
        }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let service = service_fn(move |request| {
                    std::future::ready(Ok::<_, std::convert::Infallible>(answer(&request, &state)))
                });
                connections.spawn(
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { state, task }
    }

    /// Sends this to everybody who listens, and to whoever asks from now on.
    pub fn say(&self, message: Vec<u8>) {
        let mut state = self.state.lock();
        for stream in &state.streams {
            stream.send(Said::Message(message.clone())).ok();
        }
        state.says = Some(message);
    }

    /// Nobody has an identity any more.
    pub fn deny(&self) {
        let mut state = self.state.lock();
        state.says = None;
        for stream in state.streams.drain(..) {
            stream.send(Said::Denied).ok();
        }
    }

    /// Breaks every stream off, without a word.
    pub fn cut(&self) {
        self.state.lock().streams.clear();
    }

    /// How often the stream was begun.
    pub fn asked(&self) -> usize {
        self.state.lock().asked
    }
}

fn answer(request: &Request<Incoming>, state: &Mutex<State>) -> Response<Stream> {
    assert_eq!(request.headers()["workload.spiffe.io"], "true");
    assert_eq!(request.uri().path(), "/SpiffeWorkloadAPI/FetchX509SVID");
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut state = state.lock();
    state.asked += 1;
    let said = state.says.clone().map_or(Said::Denied, Said::Message);
    sender.send(said).ok();
    state.streams.push(sender);
    Response::builder()
        .header("content-type", "application/grpc")
        .body(Stream(receiver))
        .unwrap()
}

struct Stream(mpsc::UnboundedReceiver<Said>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|said| {
            Some(Ok(match said? {
                Said::Message(bytes) => Frame::data(bytes.into()),
                Said::Denied => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "7".parse().unwrap());
                    Frame::trailers(trailers)
                }
            }))
        })
    }
}
