//! Keys and signatures: a key and the names of algorithms in, a verifier for each of them out.
//!
//! The `alg` of a token only picks among these verifiers. Each was made at start, for the kind of
//! key it belongs to: a token can neither bring a key nor change what ours is used for.

use std::fmt;

use data_encoding::BASE64;
use ring::{
    hmac,
    signature::{self, UnparsedPublicKey, VerificationAlgorithm},
};

use crate::error::{Error, Result};

/// Bits of an RSA modulus. RFC 7518 (3.3) asks for the least; the most is what `ring` takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Tags of DER.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;

/// The `AlgorithmIdentifier` of public keys, in DER without its tag and length (RFC 3279, 5480, 8410).
const RSA_ENCRYPTION: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const EC_P256: &[u8] =
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const EC_P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
const ED25519: &[u8] = b"\x06\x03\x2b\x65\x70";

/// The key that tokens are verified with.
#[derive(Clone)]
pub enum JwtKey {
    /// A secret that is shared with the issuer: at least 32 bytes for HS256, 48 for HS384, 64 for
    /// HS512, as RFC 7518 (3.2) asks. Whoever has seen one token can try out a weaker one.
    Secret(Vec<u8>),
    /// The issuer's public key in PEM: `PUBLIC KEY` (RSA from 2048 bits, P-256, P-384, Ed25519) or
    /// `RSA PUBLIC KEY`.
    PublicKey(Vec<u8>),
}

/// Shows which key it is, and nothing of it.
impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(..)",
            Self::PublicKey(_) => "PublicKey(..)",
        })
    }
}

/// What a key is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Secret,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn default_algorithm(self) -> &'static str {
        match self {
            Self::Secret => "HS256",
            Self::Rsa => "RS256",
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::Ed25519 => "EdDSA",
        }
    }
}

/// How an algorithm verifies.
enum Scheme {
    Mac(hmac::Algorithm),
    Signature(&'static dyn VerificationAlgorithm),
}

/// The algorithms of RFC 7518 and 8037 that we know, with the kind of key that each needs.
fn algorithm(name: &str) -> Option<(Kind, Scheme)> {
    use Scheme::{Mac, Signature};
    Some(match name {
        "HS256" => (Kind::Secret, Mac(hmac::HMAC_SHA256)),
        "HS384" => (Kind::Secret, Mac(hmac::HMAC_SHA384)),
        "HS512" => (Kind::Secret, Mac(hmac::HMAC_SHA512)),
        "RS256" => (Kind::Rsa, Signature(&signature::RSA_PKCS1_2048_8192_SHA256)),
        "RS384" => (Kind::Rsa, Signature(&signature::RSA_PKCS1_2048_8192_SHA384)),
        "RS512" => (Kind::Rsa, Signature(&signature::RSA_PKCS1_2048_8192_SHA512)),
        "PS256" => (Kind::Rsa, Signature(&signature::RSA_PSS_2048_8192_SHA256)),
        "PS384" => (Kind::Rsa, Signature(&signature::RSA_PSS_2048_8192_SHA384)),
        "PS512" => (Kind::Rsa, Signature(&signature::RSA_PSS_2048_8192_SHA512)),
        "ES256" => (Kind::P256, Signature(&signature::ECDSA_P256_SHA256_FIXED)),
        "ES384" => (Kind::P384, Signature(&signature::ECDSA_P384_SHA384_FIXED)),
        // RFC 9864 gives EdDSA the name of its curve.
        "EdDSA" | "Ed25519" => (Kind::Ed25519, Signature(&signature::ED25519)),
        _ => return None,
    })
}

/// A key, bound to one algorithm.
#[derive(Debug)]
pub(super) enum Verifier {
    Mac(hmac::Key),
    Signature(UnparsedPublicKey<Vec<u8>>),
}

impl Verifier {
    pub(super) fn is_valid(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            // Compares in constant time.
            Self::Mac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Signature(key) => key.verify(message, signature).is_ok(),
        }
    }
}

/// The verifiers of one key, by the name of the algorithm.
#[derive(Debug)]
pub(super) struct Verifiers(Vec<(String, Verifier)>);

impl Verifiers {
    /// One for each algorithm; without any, for the usual one of the key.
    ///
    /// Errors: `InvalidOption` when the key cannot be used, or not with an algorithm.
    pub(super) fn new(key: &JwtKey, algorithms: &[String]) -> Result<Self> {
        let (kind, bytes) = match key {
            JwtKey::Secret(secret) => (Kind::Secret, check_secret(secret)?.to_vec()),
            JwtKey::PublicKey(pem) => read_public_key(pem)?,
        };
        let default = [kind.default_algorithm().to_owned()];
        let names = match algorithms {
            [] => &default,
            names => names,
        };
        let verifiers = names
            .iter()
            .map(|name| Ok((name.clone(), bind(kind, &bytes, name)?)));
        verifiers.collect::<Result<_>>().map(Self)
    }

    pub(super) fn get(&self, algorithm: &str) -> Option<&Verifier> {
        let found = self.0.iter().find(|(name, _)| name == algorithm);
        found.map(|(_, verifier)| verifier)
    }
}

/// The verifier of one algorithm, if it is for this kind of key.
fn bind(kind: Kind, key: &[u8], name: &str) -> Result<Verifier> {
    let scheme = match algorithm(name) {
        Some((needed, scheme)) if needed == kind => scheme,
        found => {
            let problem = match found {
                Some(_) => "which is not for this key",
                None => "which is not supported",
            };
            return Err(invalid(
                "jwt.algorithms",
                format!("has {name:?}, {problem}"),
            ));
        }
    };
    Ok(match scheme {
        Scheme::Signature(algorithm) => {
            Verifier::Signature(UnparsedPublicKey::new(algorithm, key.to_vec()))
        }
        Scheme::Mac(algorithm) => {
            let least = algorithm.digest_algorithm().output_len();
            if key.len() < least {
                let found = key.len();
                let reason = format!("has {found} bytes, {name} needs at least {least}");
                return Err(invalid("jwt.secret", reason));
            }
            Verifier::Mac(hmac::Key::new(algorithm, key))
        }
    })
}

/// Refuses a key file in place of a secret: a public key is known to all, who could then sign.
fn check_secret(secret: &[u8]) -> Result<&[u8]> {
    const PEM: &[u8] = b"-----BEGIN";
    if secret.windows(PEM.len()).any(|window| window == PEM) {
        return Err(invalid("jwt.secret", "is a key in PEM, expected a secret"));
    }
    Ok(secret)
}

/// The public key of a PEM text, in the form in which `ring` wants it.
fn read_public_key(pem: &[u8]) -> Result<(Kind, Vec<u8>)> {
    let invalid = |reason| Err(invalid("jwt.publicKey", reason));
    let Some((label, der)) = read_pem(pem) else {
        return invalid("is not one PEM block");
    };
    let (kind, key) = match label {
        "PUBLIC KEY" => match read_key_info(&der) {
            Some((RSA_ENCRYPTION, key)) => (Kind::Rsa, key),
            Some((EC_P256, key)) => (Kind::P256, key),
            Some((EC_P384, key)) => (Kind::P384, key),
            Some((ED25519, key)) => (Kind::Ed25519, key),
            Some(_) => return invalid("is of a kind that is not supported"),
            None => return invalid("cannot be read"),
        },
        "RSA PUBLIC KEY" => (Kind::Rsa, &der[..]),
        "CERTIFICATE" => return invalid("is a certificate, expected its public key"),
        label if label.ends_with("PRIVATE KEY") => {
            return invalid("is a private key, expected the public one");
        }
        _ => return invalid("is not a public key"),
    };
    let is_sound = match kind {
        Kind::Rsa => match rsa_bits(key) {
            Some(bits) if !RSA_BITS.contains(&bits) => {
                return invalid("is an RSA key of less than 2048 or more than 8192 bits");
            }
            bits => bits.is_some(),
        },
        // An uncompressed point: a tag and two numbers.
        Kind::P256 => key.len() == 65 && key[0] == 4,
        Kind::P384 => key.len() == 97 && key[0] == 4,
        Kind::Ed25519 => key.len() == 32,
        Kind::Secret => false,
    };
    match is_sound {
        true => Ok((kind, key.to_vec())),
        false => invalid("cannot be read"),
    }
}

/// The label and the bytes of the only block of a PEM text (RFC 7468).
fn read_pem(pem: &[u8]) -> Option<(&str, Vec<u8>)> {
    let (_, text) = str::from_utf8(pem).ok()?.split_once("-----BEGIN ")?;
    let (label, text) = text.split_once("-----")?;
    let (body, rest) = text.split_once("-----END ")?;
    if !rest.strip_prefix(label)?.starts_with("-----") || rest.contains("-----BEGIN ") {
        return None;
    }
    let body: Vec<u8> = body.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    Some((label, BASE64.decode(&body).ok()?))
}

/// The algorithm and the key of a `SubjectPublicKeyInfo` (RFC 5280, 4.1).
fn read_key_info(mut der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut info = take(&mut der, SEQUENCE)?;
    let algorithm = take(&mut info, SEQUENCE)?;
    // The first byte tells how many bits of the last are unused.
    let key = take(&mut info, BIT_STRING)?.strip_prefix(&[0])?;
    (der.is_empty() && info.is_empty()).then_some((algorithm, key))
}

/// The length of the modulus of an `RSAPublicKey` (RFC 8017, A.1.1).
fn rsa_bits(mut der: &[u8]) -> Option<usize> {
    let mut key = take(&mut der, SEQUENCE)?;
    let modulus = take(&mut key, INTEGER)?;
    take(&mut key, INTEGER)?;
    // A number whose first bit is set would be negative; a zero byte goes before it.
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let zeros = modulus.first()?.leading_zeros() as usize;
    (der.is_empty() && key.is_empty()).then_some(modulus.len() * 8 - zeros)
}

/// Takes the element of this tag off the front of DER.
fn take<'a>(der: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // The length is in the one or two bytes that follow: no key is longer than 64 KiB.
        0x81 | 0x82 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = length.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
            (length, rest)
        }
        _ => return None,
    };
    let (value, rest) = rest.split_at_checked(length)?;
    *der = rest;
    (found == tag).then_some(value)
}

fn invalid(name: &'static str, reason: impl Into<String>) -> Error {
    let reason = reason.into();
    Error::InvalidOption { name, reason }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    const SECRET: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    /// The payload that all examples of RFC 7515 (A.1 to A.3) share.
    const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn decode(text: &str) -> Vec<u8> {
        BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()
    }

    fn public(pem: &str) -> JwtKey {
        JwtKey::PublicKey(pem.into())
    }

    fn verifiers(key: &JwtKey, algorithms: &[&str]) -> Result<Verifiers> {
        let names: Vec<String> = algorithms.iter().map(|&name| name.into()).collect();
        Verifiers::new(key, &names)
    }

    /// The option that is complained of.
    #[track_caller]
    fn complaint(key: &JwtKey, algorithms: &[&str]) -> &'static str {
        match verifiers(key, algorithms) {
            Err(Error::InvalidOption { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_examples_of_the_rfcs_verify_and_others_do_not() {
        let rsa = public(include_str!("../../tests/keys/rfc7515-rsa.pem"));
        let p256 = public(include_str!("../../tests/keys/p256.pem"));
        let ed25519 = public(include_str!("../../tests/keys/ed25519.pem"));
        let examples = [
            // RFC 7515, A.1.
            (
                JwtKey::Secret(decode(SECRET)),
                "HS256",
                format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{PAYLOAD}"),
                "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            ),
            // RFC 7515, A.2.
            (
                rsa,
                "RS256",
                format!("eyJhbGciOiJSUzI1NiJ9.{PAYLOAD}"),
                "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_\
                 O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIA\
                 RNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPq\
                 vhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77\
                 Rw",
            ),
            // RFC 7515, A.3.
            (
                p256,
                "ES256",
                format!("eyJhbGciOiJFUzI1NiJ9.{PAYLOAD}"),
                "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            ),
            // RFC 8037, A.4.
            (
                ed25519,
                "EdDSA",
                "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".into(),
                "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            ),
        ];
        for (key, name, message, signature) in &examples {
            let verifiers = verifiers(key, &[]).unwrap();
            let verifier = verifiers.get(name).expect("the default of the key");
            let signature = decode(signature);
            assert!(verifier.is_valid(message.as_bytes(), &signature), "{name}");
            assert!(!verifier.is_valid(&message.as_bytes()[1..], &signature));
            assert!(!verifier.is_valid(message.as_bytes(), &signature[1..]));
            assert!(!verifier.is_valid(message.as_bytes(), &[]));
            for other in &examples {
                let signature = decode(other.3);
                let is_same = other.1 == *name;
                assert_eq!(verifier.is_valid(message.as_bytes(), &signature), is_same);
            }
        }
    }

    #[test]
    fn an_algorithm_must_be_known_and_for_the_key() {
        let secret = JwtKey::Secret(vec![7; 64]);
        let rsa = public(include_str!("../../tests/keys/rsa.pem"));
        let p256 = public(include_str!("../../tests/keys/p256.pem"));
        let p384 = public(include_str!("../../tests/keys/p384.pem"));
        let ed25519 = public(include_str!("../../tests/keys/ed25519.pem"));
        let families: [(&JwtKey, &[&str]); 5] = [
            (&secret, &["HS256", "HS384", "HS512"]),
            (
                &rsa,
                &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            ),
            (&p256, &["ES256"]),
            (&p384, &["ES384"]),
            (&ed25519, &["EdDSA", "Ed25519"]),
        ];
        for (key, own) in families {
            verifiers(key, own).unwrap();
            for (_, names) in families {
                for name in names {
                    let found = verifiers(key, &[own[0], name]);
                    assert_eq!(found.is_ok(), own.contains(name), "{key:?} {name}");
                }
            }
            let unknown = [
                "none", "None", "", "hs256", "HS256 ", "ES512", "ES256K", "HS1", "Ed448",
            ];
            for name in unknown {
                assert_eq!(complaint(key, &[own[0], name]), "jwt.algorithms");
            }
        }
    }

    #[test]
    fn a_secret_is_as_long_as_its_hash() {
        for (name, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
            verifiers(&JwtKey::Secret(vec![7; least]), &[name]).unwrap();
            let short = JwtKey::Secret(vec![7; least - 1]);
            assert_eq!(complaint(&short, &[name]), "jwt.secret");
        }
        assert_eq!(complaint(&JwtKey::Secret(vec![]), &[]), "jwt.secret");
        let short = JwtKey::Secret(vec![7; 32]);
        assert_eq!(complaint(&short, &["HS256", "HS512"]), "jwt.secret");
    }

    #[test]
    fn a_key_file_is_no_secret() {
        let pem = include_str!("../../tests/keys/rsa.pem");
        for text in [pem.to_owned(), format!("\n\u{feff}{pem}")] {
            let key = JwtKey::Secret(text.into());
            assert_eq!(complaint(&key, &["HS256"]), "jwt.secret");
        }
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused() {
        let block = |label: &str, body: &str| {
            format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
        };
        let rsa = include_str!("../../tests/keys/rsa.pem");
        let (_, body) = rsa.split_once('\n').unwrap();
        let (body, _) = body.split_once("-----").unwrap();
        for pem in [
            include_str!("../../tests/keys/unsupported-rsa-1024.pem").to_owned(),
            include_str!("../../tests/keys/unsupported-rsa-pss.pem").to_owned(),
            include_str!("../../tests/keys/unsupported-p521.pem").to_owned(),
            include_str!("../../tests/keys/unsupported-p256-compressed.pem").to_owned(),
            include_str!("../../tests/keys/unsupported-secp256k1.pem").to_owned(),
            include_str!("../../tests/keys/unsupported-ed448.pem").to_owned(),
            include_str!("../../tests/keys/unsupported-x25519.pem").to_owned(),
            String::new(),
            "secret".into(),
            body.into(),
            block("PUBLIC KEY", ""),
            block("PUBLIC KEY", "AAAA"),
            block("PUBLIC KEY", "!"),
            block("RSA PUBLIC KEY", body),
            block("PRIVATE KEY", body),
            block("EC PRIVATE KEY", body),
            block("ENCRYPTED PRIVATE KEY", body),
            block("CERTIFICATE", body),
            block("EC PARAMETERS", body),
            rsa.replace("END PUBLIC", "END RSA PUBLIC"),
            rsa.replace("-----END PUBLIC KEY-----", ""),
            format!("{rsa}{rsa}"),
        ] {
            assert_eq!(complaint(&public(&pem), &[]), "jwt.publicKey", "{pem}");
        }
        let der = JwtKey::PublicKey(BASE64.decode(body.replace('\n', "").as_bytes()).unwrap());
        assert_eq!(complaint(&der, &[]), "jwt.publicKey");
    }

    #[test]
    fn a_public_key_is_read_whatever_surrounds_it() {
        let rsa = include_str!("../../tests/keys/rsa.pem");
        let pkcs1 = include_str!("../../tests/keys/rsa-pkcs1.pem");
        let expected = read_public_key(rsa.as_bytes()).unwrap();
        for pem in [
            pkcs1.to_owned(),
            rsa.replace('\n', "\r\n"),
            format!("of the issuer\n{rsa}\n\n"),
            format!("\u{feff}{}", rsa.trim_end()),
        ] {
            assert_eq!(read_public_key(pem.as_bytes()).unwrap(), expected, "{pem}");
        }
    }

    #[test]
    fn a_key_that_is_cut_or_lengthened_is_refused() {
        for pem in [
            include_str!("../../tests/keys/rsa.pem"),
            include_str!("../../tests/keys/p256.pem"),
            include_str!("../../tests/keys/ed25519.pem"),
        ] {
            let (label, der) = read_pem(pem.as_bytes()).unwrap();
            let write = |der: &[u8]| {
                let body = BASE64.encode(der);
                format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----")
            };
            read_public_key(write(&der).as_bytes()).unwrap();
            for end in 0..der.len() {
                read_public_key(write(&der[..end]).as_bytes()).unwrap_err();
            }
            let longer = [&der[..], &[0]].concat();
            read_public_key(write(&longer).as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn nothing_of_a_key_is_shown() {
        let shown = format!("{:?}", JwtKey::Secret(b"hunter2".to_vec()));
        assert_eq!(shown, "Secret(..)");
        let verifiers = verifiers(&JwtKey::Secret(vec![0xab; 32]), &[]).unwrap();
        let shown = format!("{verifiers:?}").to_lowercase();
        assert!(
            !shown.contains("abab") && !shown.contains("171, 171"),
            "{shown}"
        );
    }
}
