//! How certificates are made and read back: lives, extensions, serials and keys, for root, intermediate and leaf.
//!
//! All keys are ECDSA P-256. Serials are 16 random bytes, because rcgen's own come from the key and NSS refuses two
//! certificates of one issuer and serial. Subject and authority key identifiers stand everywhere: OpenSSL 3 in strict
//! mode, and so Python 3.13, asks for them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use zeroize::{Zeroize, Zeroizing};

use crate::host::Host;

use super::error::CaError;

/// A certificate that signs, with its key.
#[derive(Debug)]
pub(super) struct Signer {
    pub(super) cert: CertificateDer<'static>,
    pub(super) life: Life,
    issuer: Issuer<'static, KeyPair>,
}

/// From when to when a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

/// A signer just made, and its key as it goes to a file.
pub(super) struct Made {
    pub(super) signer: Signer,
    pub(super) key_pem: Zeroizing<String>,
}

/// Why a certificate and a key do not make a [`Signer`].
pub(super) enum Unfit {
    /// One of them does not parse, or the certificate is no CA's.
    Corrupt(&'static str),
    /// Each is sound, but the key is another's.
    Mismatch,
}

impl Life {
    /// Begins a little before `now`, for agents whose clock is behind.
    fn starting(now: Timestamp, length: SignedDuration) -> Self {
        Self {
            from: now - BACKDATED,
            to: now - BACKDATED + length,
        }
    }

    pub(super) fn covers(&self, now: Timestamp) -> bool {
        self.from <= now && now < self.to
    }

    /// Whether a third or less of the life is left, or it has not begun (the clock went back).
    pub(super) fn is_waning(&self, now: Timestamp) -> bool {
        now < self.from || now >= self.to - self.to.duration_since(self.from) / 3
    }
}

impl Signer {
    /// Makes a root: it signs intermediates only, and is trusted whole, so nothing in it needs to change when the
    /// configuration does.
    pub(super) fn new_root(now: Timestamp, length: SignedDuration) -> Result<Made, CaError> {
        let mut params = params("keyward root", Life::starting(now, length))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        let key = KeyPair::generate()?;
        let cert = params.self_signed(&key)?;
        Self::made(cert.der().clone(), key, Life::starting(now, length))
    }

    /// Makes an intermediate below this root: no CA below it, these names, servers only.
    pub(super) fn new_intermediate(
        &self,
        constraints: Vec<u8>,
        now: Timestamp,
    ) -> Result<Made, CaError> {
        if !self.life.covers(now) {
            return Err(CaError::RootExpired);
        }
        let mut life = Life::starting(now, INTERMEDIATE_LIFE);
        life.to = life.to.min(self.life.to);
        let mut params = params("keyward issuing CA", life)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut names = CustomExtension::from_oid_content(NAME_CONSTRAINTS, constraints);
        names.set_criticality(true);
        params.custom_extensions = vec![names];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Self::made(cert.der().clone(), key, life)
    }

    /// Mints a leaf for exactly one host. The caller has checked that it is permitted.
    pub(super) fn new_leaf(&self, host: &Host, now: Timestamp) -> Result<Leaf, CaError> {
        let mut life = Life::starting(now, LEAF_LIFE);
        life.to = life.to.min(self.life.to);
        let mut params = CertificateParams::default();
        date(&mut params, life);
        params.serial_number = Some(serial()?);
        params.subject_alt_names = vec![match host {
            Host::Name(name) => SanType::DnsName((&**name).try_into()?),
            Host::Ip(ip) => SanType::IpAddress(*ip),
        }];
        // No common name: some verifiers take one for a host, which name constraints do not bind.
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "keyward");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let mut key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        let der = PrivatePkcs8KeyDer::from(key.serialize_der());
        key.zeroize();
        Ok(Leaf {
            cert: cert.der().clone(),
            key: PrivateKeyDer::Pkcs8(der),
            life,
        })
    }

    /// Reads a signer back. Formats are those that [`Signer::new_root`] and [`Signer::new_intermediate`] give.
    pub(super) fn read(cert: CertificateDer<'static>, key_pem: &[u8]) -> Result<Self, Unfit> {
        let key = std::str::from_utf8(key_pem)
            .ok()
            .and_then(|pem| KeyPair::from_pem(pem).ok())
            .ok_or(Unfit::Corrupt("this is no private key in PEM"))?;
        let parsed = parse(&cert)?;
        if !parsed.is_ca() {
            return Err(Unfit::Corrupt("the certificate is not a CA's"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(Unfit::Mismatch);
        }
        let life = life(&parsed);
        Self::with(cert, key, life).map_err(|_| Unfit::Corrupt("the certificate is no CA of ours"))
    }

    /// Whether this root signed `cert`.
    pub(super) fn signed(root: &CertificateDer<'_>, cert: &CertificateDer<'_>) -> bool {
        let (Ok(root), Ok(cert)) = (parse(root), parse(cert)) else {
            return false;
        };
        let key = aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            &root.public_key().subject_public_key.data,
        );
        cert.issuer() == root.subject()
            && key
                .verify(cert.tbs_certificate.as_ref(), &cert.signature_value.data)
                .is_ok()
    }

    /// The name constraints of the certificate, as DER.
    pub(super) fn constraints(&self) -> Option<Vec<u8>> {
        let parsed = parse(&self.cert).ok()?;
        parsed
            .iter_extensions()
            .find(|ext| matches!(ext.parsed_extension(), ParsedExtension::NameConstraints(_)))
            .map(|ext| ext.value.to_vec())
    }

    fn made(cert: CertificateDer<'static>, key: KeyPair, life: Life) -> Result<Made, CaError> {
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Made {
            signer: Self::with(cert, key, life)?,
            key_pem,
        })
    }

    fn with(
        cert: CertificateDer<'static>,
        mut key: KeyPair,
        life: Life,
    ) -> Result<Self, rcgen::Error> {
        // This wipes rcgen's DER copy; the key that signs is the library's own, wiped when freed.
        key.zeroize();
        let issuer = Issuer::from_ca_cert_der(&cert, key)?;
        Ok(Self { cert, life, issuer })
    }
}

/// A leaf and its key.
pub(super) struct Leaf {
    pub(super) cert: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) life: Life,
}

/// All certificates of a PEM text; an empty list is a fault too.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    let certs: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| Unfit::Corrupt("this is not PEM"))?;
    if certs.is_empty() {
        return Err(Unfit::Corrupt("there is no certificate in this file"));
    }
    for cert in &certs {
        parse(cert)?;
    }
    Ok(certs)
}

/// A certificate as PEM.
pub(super) fn pem(cert: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(cert);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// Parses a certificate that must fill its bytes.
pub(super) fn parse<'a>(cert: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Unfit> {
    match x509_parser::parse_x509_certificate(cert) {
        Ok(([], parsed)) => Ok(parsed),
        _ => Err(Unfit::Corrupt("a certificate does not parse")),
    }
}

/// The life that a certificate states.
pub(super) fn life(cert: &X509Certificate<'_>) -> Life {
    let stamp = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MIN);
    Life {
        from: stamp(cert.validity().not_before.timestamp()),
        to: stamp(cert.validity().not_after.timestamp()),
    }
}

/// What both CA certificates have. The subject carries part of the serial: clients that cache by name (Java, NSS) must
/// not take one generation for another.
fn params(name: &str, life: Life) -> Result<CertificateParams, CaError> {
    let serial = serial()?;
    let tag = serial.to_string().replace(':', "");
    let tag = tag.get(..8).unwrap_or_default();
    let mut params = CertificateParams::default();
    date(&mut params, life);
    params.serial_number = Some(serial);
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "keyward");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{name} {tag}"));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Sixteen random bytes, positive and without a leading zero.
fn serial() -> Result<SerialNumber, CaError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|error| CaError::Crypto(Box::new(error)))?;
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Writes a life into the parameters, to the second.
fn date(params: &mut CertificateParams, life: Life) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let since =
        |time: Timestamp| epoch + Duration::from_secs(u64::try_from(time.as_second()).unwrap_or(0));
    params.not_before = since(life.from);
    params.not_after = since(life.to);
}

/// An agent's clock may be this far behind.
const BACKDATED: SignedDuration = SignedDuration::from_mins(55);

/// The root that lies in a folder: long, so that agents need not trust anew.
pub(super) const ROOT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365 * 5);

/// A root that lives in memory ends with its process.
pub(super) const MEMORY_ROOT_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);

/// The intermediate is what `serve` holds and so what can be stolen.
const INTERMEDIATE_LIFE: SignedDuration = SignedDuration::from_hours(24 * 30);

const LEAF_LIFE: SignedDuration = SignedDuration::from_hours(24);

const NAME_CONSTRAINTS: &[u64] = &[2, 5, 29, 30];
