//! The instance identity document of EC2 in its `rsa2048` form: PKCS #7 (RFC 5652) around a JSON text.
//!
//! The certificate that it is checked with is the operator's, by region; what the message brings along is not looked
//! at. The document has no end: whoever has read it once can show it as long as it is believed.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer as _;

use super::ber::{CONTEXT_0, Element, INTEGER, OID, Reader, SEQUENCE, SET};
use crate::identity::jwt::verified::sum;

/// What it says of the instance.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) account_id: String,
    pub(super) region: String,
    pub(super) instance_id: String,
}

/// A signed message, taken apart.
#[derive(Debug)]
struct Signed<'b> {
    content: Vec<u8>,
    /// As it is signed: a set, though it stands there under another tag (RFC 5652 §5.4).
    attributes: Vec<u8>,
    digest: &'b [u8],
    signature: &'b [u8],
}

/// Reads the message and checks it against these certificates, in DER. With the document comes the SHA-256 of what was
/// signed: what is around it (white space, lengths in BER, certificates that nobody looks at) is anybody's to change.
pub(super) fn verify(message: &[u8], certificates: &[Box<[u8]>]) -> Option<(Document, [u8; 32])> {
    if message.len() > LONGEST {
        return None;
    }
    let text: Vec<u8> = message
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let der = BASE64.decode(text).ok()?;
    let signed = Signed::read(&der)?;
    if digest(&SHA256, &signed.content).as_ref() != signed.digest {
        return None;
    }
    let by = |certificate: &[u8]| {
        let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let key = &certificate.public_key().subject_public_key.data;
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key)
            .verify(&signed.attributes, signed.signature)
            .is_ok()
    };
    if !certificates.iter().any(|certificate| by(certificate)) {
        return None;
    }
    let document: Document = serde_json::from_slice(&signed.content).ok()?;
    let word = |text: &str| {
        !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let clean = word(&document.account_id) && word(&document.region) && word(&document.instance_id);
    clean.then(|| (document, sum(&signed.attributes)))
}

impl<'b> Signed<'b> {
    fn read(der: &'b [u8]) -> Option<Self> {
        let mut message = Reader(der);
        let mut info = message.expect(SEQUENCE)?.inside();
        if !message.is_empty() || info.expect(OID)?.content != SIGNED_DATA {
            return None;
        }
        let mut data = info.expect(CONTEXT_0)?.inside().expect(SEQUENCE)?.inside();
        data.expect(INTEGER)?;
        data.expect(SET)?;
        let mut held = data.expect(SEQUENCE)?.inside();
        if held.expect(OID)?.content != DATA {
            return None;
        }
        let content = held.expect(CONTEXT_0)?.inside().any()?.octets()?;
        // Certificates and revocation lists.
        data.next_if(CONTEXT_0);
        data.next_if(CONTEXT_0 | 1);
        let mut signers = data.expect(SET)?.inside();
        let mut signer = signers.expect(SEQUENCE)?.inside();
        // Of two signers nobody said which counts.
        if !signers.is_empty() {
            return None;
        }
        signer.expect(INTEGER)?;
        // The signer's name, or its key's id: the operator's certificate says who it is.
        signer.any()?;
        if signer.expect(SEQUENCE)?.inside().expect(OID)?.content != SHA_256 {
            return None;
        }
        let attributes = signer.expect(CONTEXT_0)?;
        signer.expect(SEQUENCE)?;
        let signature = signer.expect(super::ber::OCTETS)?.content;
        let digest = attribute(&attributes, MESSAGE_DIGEST)?;
        if attribute(&attributes, CONTENT_TYPE)?.content != DATA {
            return None;
        }
        let mut set = attributes.whole.to_vec();
        *set.first_mut()? = SET;
        Some(Self {
            content,
            attributes: set,
            digest: digest.content,
            signature,
        })
    }
}

/// The only value of the attribute, which stands there once (RFC 5652 §11.1, §11.2).
fn attribute<'b>(attributes: &Element<'b>, wanted: &[u8]) -> Option<Element<'b>> {
    let (mut all, mut found) = (attributes.inside(), None);
    while !all.is_empty() {
        let mut attribute = all.expect(SEQUENCE)?.inside();
        let name = attribute.expect(OID)?;
        let mut values = attribute.expect(SET)?.inside();
        if name.content == wanted {
            let value = values.any()?;
            if found.is_some() || !values.is_empty() {
                return None;
            }
            found = Some(value);
        }
    }
    found
}

/// 1.2.840.113549.1.7.2.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.7.1.
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
/// 1.2.840.113549.1.9.3.
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
/// 1.2.840.113549.1.9.4.
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// 2.16.840.1.101.3.4.2.1.
const SHA_256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// The longest message that is looked at, in bytes.
const LONGEST: usize = 16 * 1024;
