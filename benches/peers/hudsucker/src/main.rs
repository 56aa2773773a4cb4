//! hudsucker as a credential-injecting proxy: `hudsucker-peer LISTEN CA.pem CA.key HEADER-VALUE`.
//!
//! It mints leaves from the given CA, sets `authorization` on every request, and trusts that same CA upstream.

use std::{env, error::Error, fs, net::SocketAddr, sync::Arc};

use hudsucker::certificate_authority::RcgenAuthority;
use hudsucker::hyper::{Request, http::HeaderValue};
use hudsucker::rcgen::{Issuer, KeyPair};
use hudsucker::{Body, HttpContext, HttpHandler, Proxy, RequestOrResponse};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};

#[derive(Clone)]
struct Inject(HeaderValue);

impl HttpHandler for Inject {
    async fn handle_request(
        &mut self,
        _: &HttpContext,
        mut request: Request<Body>,
    ) -> RequestOrResponse {
        request
            .headers_mut()
            .insert("authorization", self.0.clone());
        request.into()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().collect();
    let [_, listen, cert, key, value] = args.as_slice() else {
        return Err("usage: hudsucker-peer LISTEN CA.pem CA.key HEADER-VALUE".into());
    };
    let issuer = Issuer::from_ca_cert_pem(
        &fs::read_to_string(cert)?,
        KeyPair::from_pem(&fs::read_to_string(key)?)?,
    )?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(cert)?)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_all_versions();
    let mut tcp = hyper_util::client::legacy::connect::HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    let mut client = Client::builder(TokioExecutor::new());
    client.http1_title_case_headers(false);
    let proxy = Proxy::builder()
        .with_addr(listen.parse::<SocketAddr>()?)
        .with_ca(RcgenAuthority::new(
            issuer,
            1_000,
            aws_lc_rs::default_provider(),
        ))
        .with_http_connector(https.wrap_connector(tcp))
        .with_client(client)
        .with_http_handler(Inject(HeaderValue::from_str(value)?))
        .build()?;
    proxy.start().await?;
    Ok(())
}
