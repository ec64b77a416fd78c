//! Loads the keys and algorithms of tokens for `jsonwebtoken`.

use std::{fmt, str::FromStr};

use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, errors::Result as JwtResult};

use super::verify::{PROVIDER, hash};
use crate::error::{Error, Result};

/// Bytes of an RSA key in PKCS#1: RFC 7518 (3.3) requires a modulus of 2048 bits, `ring` accepts up to 8192,
/// and the encoding adds about twenty bytes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024 + 32;
/// Bytes of an uncompressed point on P-256 and P-384.
const P256_BYTES: usize = 65;
const P384_BYTES: usize = 97;
/// DER identifiers of these curves (RFC 5480): other curves have points of the same length.
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x06\x05\x2b\x81\x04\x00\x22";

/// The key that verifies tokens.
#[derive(Clone)]
pub enum JwtKey {
    /// A secret shared with the issuer: at least 32 bytes for HS256, 48 for HS384, 64 for HS512, as RFC 7518
    /// (3.2) requires. A shorter one can be guessed offline from a single token.
    Secret(Vec<u8>),
    /// The issuer's public key in PEM: `PUBLIC KEY` (RSA from 2048 bits, P-256, P-384, Ed25519) or `RSA
    /// PUBLIC KEY`.
    PublicKey(Vec<u8>),
}

/// Shows the kind of key, but not its content.
impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret(..)",
            Self::PublicKey(_) => "PublicKey(..)",
        })
    }
}

/// A loaded key with its allowed algorithms: at least one, all of the key's family.
pub(super) struct Key {
    pub(super) decoding: DecodingKey,
    pub(super) algorithms: Vec<Algorithm>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

impl Key {
    /// True for a public key, which verifies slowly; false for a secret.
    pub(super) fn is_pair(&self) -> bool {
        self.decoding.family() != AlgorithmFamily::Hmac
    }

    /// Loads a key. If `algorithms` is empty, the default algorithm of the key is allowed.
    ///
    /// Errors: `InvalidOption` if the key is unusable, or does not fit an algorithm.
    pub(super) fn new(key: &JwtKey, algorithms: &[String]) -> Result<Self> {
        // Fails if another provider is installed already: then that one verifies.
        let _ = PROVIDER.install_default();
        let (decoding, usual) = match key {
            JwtKey::Secret(secret) => (read_secret(secret)?, Algorithm::HS256),
            JwtKey::PublicKey(pem) => read_public_key(pem)?,
        };
        let named = algorithms.iter().map(|name| read_algorithm(name, usual));
        let mut algorithms = named.collect::<Result<Vec<_>>>()?;
        if algorithms.is_empty() {
            algorithms.push(usual);
        }
        if let JwtKey::Secret(secret) = key {
            for algorithm in &algorithms {
                check_length(secret, *algorithm)?;
            }
        }
        Ok(Self {
            decoding,
            algorithms,
        })
    }
}

/// Parses the name of an algorithm, which must fit the same key as the default one.
fn read_algorithm(name: &str, usual: Algorithm) -> Result<Algorithm> {
    let Ok(algorithm) = Algorithm::from_str(name) else {
        let reason = format!("has {name:?}, which is not supported");
        return Err(invalid("jwt.algorithms", reason));
    };
    let fits = match usual.family() {
        // Each curve has its own algorithm.
        AlgorithmFamily::Ec => algorithm == usual,
        family => algorithm.family() == family,
    };
    match fits {
        true => Ok(algorithm),
        false => {
            let reason = format!("has {name:?}, which is not for this key");
            Err(invalid("jwt.algorithms", reason))
        }
    }
}

/// Loads a secret. Refuses a key file: with a public key as the secret, anyone could sign tokens.
fn read_secret(secret: &[u8]) -> Result<DecodingKey> {
    match has_block(secret) {
        true => Err(invalid("jwt.secret", "is a key in PEM, expected a secret")),
        false => Ok(DecodingKey::from_secret(secret)),
    }
}

fn check_length(secret: &[u8], algorithm: Algorithm) -> Result<()> {
    let least = hash(algorithm).map_or(0, |hash| hash.digest_algorithm().output_len());
    let found = secret.len();
    match found < least {
        true => Err(invalid(
            "jwt.secret",
            format!("has {found} bytes, {algorithm:?} needs at least {least}"),
        )),
        false => Ok(()),
    }
}

/// Loads a public key from PEM; returns its default algorithm as well.
fn read_public_key(pem: &[u8]) -> Result<(DecodingKey, Algorithm)> {
    let invalid = |reason: &str| Err(invalid("jwt.publicKey", reason));
    let text = std::str::from_utf8(pem).unwrap_or_default();
    let labels: Vec<_> = text
        .split("-----BEGIN ")
        .skip(1)
        .filter_map(|block| block.split("-----").next())
        .collect();
    match labels[..] {
        ["PUBLIC KEY" | "RSA PUBLIC KEY"] => {}
        ["CERTIFICATE"] => return invalid("is a certificate, expected its public key"),
        [label] if label.ends_with("PRIVATE KEY") => {
            return invalid("is a private key, expected the public one");
        }
        [_] => return invalid("is not a public key"),
        _ => return invalid("is not one PEM block"),
    }
    let keys = [
        DecodingKey::from_rsa_pem(pem),
        DecodingKey::from_ec_pem(pem),
        DecodingKey::from_ed_pem(pem),
    ];
    let Some(key) = keys.into_iter().find_map(JwtResult::ok) else {
        return invalid("cannot be read, or is of a kind that is not supported");
    };
    let bytes = key.try_get_as_bytes().unwrap_or_default();
    let usual = match (key.family(), bytes.len()) {
        (AlgorithmFamily::Rsa, length) if RSA_BYTES.contains(&length) => Algorithm::RS256,
        (AlgorithmFamily::Rsa, _) => {
            return invalid("is an RSA key of less than 2048 or more than 8192 bits");
        }
        (AlgorithmFamily::Ec, P256_BYTES) if is_on_curve(pem, P256) => Algorithm::ES256,
        (AlgorithmFamily::Ec, P384_BYTES) if is_on_curve(pem, P384) => Algorithm::ES384,
        (AlgorithmFamily::Ed, 32) => Algorithm::EdDSA,
        _ => return invalid("is of a kind that is not supported"),
    };
    Ok((key, usual))
}

/// True if the key is on this curve.
fn is_on_curve(pem: &[u8], curve: &[u8]) -> bool {
    use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};
    let info = SubjectPublicKeyInfoDer::from_pem_slice(pem);
    info.is_ok_and(|der| der.windows(curve.len()).any(|window| window == curve))
}

fn has_block(text: &[u8]) -> bool {
    const BEGIN: &[u8] = b"-----BEGIN";
    text.windows(BEGIN.len()).any(|window| window == BEGIN)
}

fn invalid(name: &'static str, reason: impl Into<String>) -> Error {
    let reason = reason.into();
    Error::InvalidOption { name, reason }
}

#[cfg(test)]
mod tests {
    use data_encoding::{BASE64, BASE64URL_NOPAD};

    use super::{super::verify::verifier, *};

    const SECRET: &str =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    /// The payload of the examples in RFC 7515 (A.1 to A.3).
    const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

    fn decode(text: &str) -> Vec<u8> {
        BASE64URL_NOPAD.decode(text.as_bytes()).unwrap()
    }

    fn public(pem: &str) -> JwtKey {
        JwtKey::PublicKey(pem.into())
    }

    fn read(key: &JwtKey, algorithms: &[&str]) -> Result<Key> {
        let names: Vec<String> = algorithms.iter().map(|&name| name.into()).collect();
        Key::new(key, &names)
    }

    fn is_valid(key: &Key, message: &[u8], signature: &[u8]) -> bool {
        let verifier = verifier(&key.algorithms[0], &key.decoding).unwrap();
        verifier.verify(message, &signature.to_vec()).is_ok()
    }

    /// The option named in the error.
    #[track_caller]
    fn complaint(key: &JwtKey, algorithms: &[&str]) -> &'static str {
        match read(key, algorithms) {
            Err(Error::InvalidOption { name, .. }) => name,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_the_matching_examples_of_the_rfcs_verify() {
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
            let key = read(key, &[]).unwrap();
            assert_eq!(key.algorithms, [name.parse().unwrap()]);
            let signature = decode(signature);
            assert!(is_valid(&key, message.as_bytes(), &signature), "{name}");
            assert!(!is_valid(&key, &message.as_bytes()[1..], &signature));
            assert!(!is_valid(&key, message.as_bytes(), &signature[1..]));
            assert!(!is_valid(&key, message.as_bytes(), &[]));
            for other in &examples {
                let signature = decode(other.3);
                let is_same = other.1 == *name;
                assert_eq!(is_valid(&key, message.as_bytes(), &signature), is_same);
            }
        }
    }

    #[test]
    fn an_algorithm_must_be_known_and_fit_the_key() {
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
            (&ed25519, &["EdDSA"]),
        ];
        for (key, own) in families {
            read(key, own).unwrap();
            for (_, names) in families {
                for name in names {
                    let found = read(key, &[own[0], name]);
                    assert_eq!(found.is_ok(), own.contains(name), "{key:?} {name}");
                }
            }
            let unknown = [
                "none", "None", "", "hs256", "HS256 ", "ES512", "ES256K", "HS1", "Ed448", "Ed25519",
            ];
            for name in unknown {
                assert_eq!(complaint(key, &[own[0], name]), "jwt.algorithms");
            }
        }
    }

    #[test]
    fn a_secret_is_as_long_as_its_hash() {
        for (name, least) in [("HS256", 32), ("HS384", 48), ("HS512", 64)] {
            read(&JwtKey::Secret(vec![7; least]), &[name]).unwrap();
            let short = JwtKey::Secret(vec![7; least - 1]);
            assert_eq!(complaint(&short, &[name]), "jwt.secret");
        }
        assert_eq!(complaint(&JwtKey::Secret(vec![]), &[]), "jwt.secret");
        let short = JwtKey::Secret(vec![7; 32]);
        assert_eq!(complaint(&short, &["HS256", "HS512"]), "jwt.secret");
    }

    #[test]
    fn a_key_file_is_refused_as_a_secret() {
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
    fn a_public_key_may_be_surrounded_by_other_text() {
        let rsa = include_str!("../../tests/keys/rsa.pem");
        let pkcs1 = include_str!("../../tests/keys/rsa-pkcs1.pem");
        let bytes = |pem: &str| {
            let (key, _) = read_public_key(pem.as_bytes()).unwrap();
            key.try_get_as_bytes().unwrap().to_vec()
        };
        for pem in [
            pkcs1.to_owned(),
            rsa.replace('\n', "\r\n"),
            format!("of the issuer\n{rsa}\n\n"),
            format!("\u{feff}{}", rsa.trim_end()),
        ] {
            assert_eq!(bytes(&pem), bytes(rsa), "{pem}");
        }
    }

    #[test]
    fn a_truncated_key_is_refused() {
        for pem in [
            include_str!("../../tests/keys/rsa.pem"),
            include_str!("../../tests/keys/p256.pem"),
            include_str!("../../tests/keys/ed25519.pem"),
        ] {
            let body: String = pem.lines().filter(|line| !line.starts_with("--")).collect();
            let der = BASE64.decode(body.as_bytes()).unwrap();
            let write = |der: &[u8]| {
                let body = BASE64.encode(der);
                format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----")
            };
            read_public_key(write(&der).as_bytes()).unwrap();
            for end in 0..der.len() {
                assert!(read_public_key(write(&der[..end]).as_bytes()).is_err());
            }
        }
    }

    #[test]
    fn debug_output_does_not_contain_the_key() {
        let shown = format!("{:?}", JwtKey::Secret(b"hunter2".to_vec()));
        assert_eq!(shown, "Secret(..)");
        let key = read(&JwtKey::Secret(vec![0xab; 32]), &[]).unwrap();
        let shown = format!("{key:?}").to_lowercase();
        assert!(
            !shown.contains("abab") && !shown.contains("171, 171"),
            "{shown}"
        );
    }
}
