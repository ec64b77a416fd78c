//! The cryptography of tokens: verifies signatures with `ring`.
//!
//! `jsonwebtoken` takes its cryptography from a process-wide provider: this one, which can only verify,
//! unless the embedder has installed another one before.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result as JwtResult},
    signature::{Error as SignatureError, Verifier},
};
use ring::{
    hmac,
    signature::{self as asymmetric, VerificationAlgorithm},
};

/// The provider based on `ring`. It cannot sign.
pub(super) static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(ErrorKind::UnsupportedAlgorithm.into()),
    verifier_factory: verifier,
    // For keys in JSON, which are not supported.
    key_utils: KeyUtils::new_unimplemented(),
};

pub(super) fn verifier(
    algorithm: &Algorithm,
    key: &DecodingKey,
) -> JwtResult<Box<dyn JwtVerifier>> {
    let bytes = key.try_get_as_bytes()?;
    if algorithm.family() != key.family() {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    let way = match (hash(*algorithm), scheme(*algorithm)) {
        (Some(hash), _) => KeyedVerifier::Mac(hmac::Key::new(hash, bytes)),
        (None, Some(scheme)) => KeyedVerifier::Signature(scheme, bytes.to_vec()),
        (None, None) => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    Ok(Box::new(RingVerifier {
        algorithm: *algorithm,
        way,
    }))
}

/// The hash of an algorithm that uses a secret.
pub(super) fn hash(algorithm: Algorithm) -> Option<hmac::Algorithm> {
    match algorithm {
        Algorithm::HS256 => Some(hmac::HMAC_SHA256),
        Algorithm::HS384 => Some(hmac::HMAC_SHA384),
        Algorithm::HS512 => Some(hmac::HMAC_SHA512),
        _ => None,
    }
}

/// The signature scheme of an algorithm that uses a public key.
fn scheme(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::RS256 => &asymmetric::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &asymmetric::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &asymmetric::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &asymmetric::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &asymmetric::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &asymmetric::RSA_PSS_2048_8192_SHA512,
        Algorithm::ES256 => &asymmetric::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &asymmetric::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &asymmetric::ED25519,
        _ => return None,
    })
}

/// A key bound to one algorithm.
struct RingVerifier {
    algorithm: Algorithm,
    way: KeyedVerifier,
}

enum KeyedVerifier {
    Mac(hmac::Key),
    Signature(&'static dyn VerificationAlgorithm, Vec<u8>),
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), SignatureError> {
        let verified = match &self.way {
            // Compares in constant time.
            KeyedVerifier::Mac(key) => hmac::verify(key, message, signature),
            KeyedVerifier::Signature(scheme, key) => {
                asymmetric::UnparsedPublicKey::new(*scheme, key).verify(message, signature)
            }
        };
        verified.map_err(|_| SignatureError::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}
