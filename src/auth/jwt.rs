//! Verifies JSON Web Tokens (RFC 7519), signed (RFC 7515) by a trusted issuer.
//!
//! No part of a token is trusted before its signature is verified, except the name of its algorithm, which
//! must be allowed. Other header members (`kid`, `jwk`, `jku`, `x5c`, ...) are ignored: keys come only from
//! the options.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, Validation, errors::ErrorKind};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::{
    Denied, Grant, Patterns, TopicPatterns,
    key::{JwtKey, Key},
    pattern,
};
use crate::{
    error::{self, Error},
    topic::is_pattern,
};

/// Bytes of a token: the default limit of an id, and more than proxies allow for a header.
const MAX_TOKEN: usize = 8 << 10;
/// Patterns in `send`: each receiver of each message may be matched against all of them.
const MAX_PATTERNS: usize = 256;
/// Bytes of a pattern in `send`.
const MAX_PATTERN: usize = 1 << 10;
/// RFC 7519 (4.1.4) recommends "no more than a few minutes".
const MAX_LEEWAY: Duration = Duration::from_secs(600);
/// Seconds until the end of the year 9999. A date in milliseconds exceeds it, and is refused as malformed.
const MAX_DATE: f64 = 253_402_300_799.0;

/// The relation between the claim `sub` and the id of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subject {
    /// The claim equals the id.
    #[default]
    Exact,
    /// The claim is a pattern that matches the id: `sensor-*` may register `sensor-1`. Only for issuers that
    /// choose the subjects: a user who could choose the subject `*` would get any id. Clients with the same
    /// pattern share a principal, and can take over each other's ids.
    Pattern,
}

/// The options of token authentication.
#[derive(Debug, Clone)]
pub struct JwtOptions {
    /// The key that verifies tokens.
    pub key: JwtKey,
    /// The allowed algorithms: HS256, HS384, HS512 for a secret; RS256, RS384, RS512, PS256, PS384, PS512 for
    /// an RSA key; ES256 for P-256; ES384 for P-384; EdDSA for Ed25519. Default: HS256, RS256, ES256, ES384
    /// or EdDSA, according to the key.
    pub algorithms: Vec<String>,
    /// Accepted values of the claim `iss`. Default: not checked.
    pub issuer: Vec<String>,
    /// Accepted values of the claim `aud`, one of which must be present. Default: not checked.
    pub audience: Vec<String>,
    /// The relation between the claim `sub` and the id. Default: they are equal.
    pub subject: Subject,
    /// The tolerated clock difference between issuer and broker: `exp` counts as this much later, `nbf` as
    /// this much earlier. At most 10 min. Default 0: a connection is closed exactly when its token expires.
    pub leeway: Duration,
    /// Refuses tokens without `exp`, which would be valid forever. Default true.
    pub require_exp: bool,
}

impl JwtOptions {
    /// The default options with this key.
    pub fn new(key: JwtKey) -> Self {
        Self {
            key,
            algorithms: Vec::new(),
            issuer: Vec::new(),
            audience: Vec::new(),
            subject: Subject::default(),
            leeway: Duration::ZERO,
            require_exp: true,
        }
    }
}

/// Authenticates clients by JSON Web Tokens.
#[derive(Debug)]
pub struct Jwt {
    key: Key,
    issuer: Vec<String>,
    audience: Vec<String>,
    subject: Subject,
    leeway: Duration,
    require_exp: bool,
}

impl Jwt {
    /// Loads the key and checks the options.
    ///
    /// Errors: `InvalidOption` for a key that cannot be loaded or is too weak, for an algorithm that is
    /// unknown or not for this key, and for too long a leeway.
    pub fn new(options: JwtOptions) -> error::Result<Self> {
        if options.leeway > MAX_LEEWAY {
            let (found, most) = (options.leeway.as_millis(), MAX_LEEWAY.as_millis());
            return Err(Error::InvalidOption {
                name: "jwt.leeway",
                reason: format!("is {found} ms, expected at most {most} ms"),
            });
        }
        Ok(Self {
            key: Key::new(&options.key, &options.algorithms)?,
            issuer: options.issuer,
            audience: options.audience,
            subject: options.subject,
            leeway: options.leeway,
            require_exp: options.require_exp,
        })
    }

    /// True if verifying this token is too slow to block other clients: a signature by a key pair.
    pub(crate) fn is_slow(&self, token: Option<&str>) -> bool {
        self.key.is_pair() && token.is_some_and(|token| token.len() <= MAX_TOKEN)
    }

    /// Verifies a token of a client that requests this id.
    ///
    /// The principal of the grant is the claim `sub`. The claim `send`, a pattern or an array of patterns,
    /// limits the ids that the client may send to; the claims `publish` and `subscribe` are the topics that it may send
    /// and subscribe to, `presence` those whose members it may see, `watch` the ids that it may watch. The grant expires at
    /// `exp`.
    ///
    /// Errors: `Forbidden` if the token is valid, but for another id, or if `sub` begins with NUL; otherwise
    /// `Unauthorized`.
    pub fn verify(&self, token: Option<&str>, id: &str, now: SystemTime) -> Result<Grant, Denied> {
        let token = token.ok_or_else(|| unauthorized("token: missing"))?;
        let claims = self.open(token)?;
        let expires = self.check_time(&claims, now)?;
        self.check_parties(&claims)?;
        let sub = match claims.string("sub")? {
            None | Some("") => return Err(unauthorized("token: sub is missing")),
            Some(sub) => sub,
        };
        let is_meant = match self.subject {
            Subject::Exact => sub == id,
            Subject::Pattern => pattern::matches(sub, id),
        };
        if !is_meant {
            return Err(Denied::Forbidden("token: for another id".into()));
        }
        let grant = Grant {
            principal: sub.into(),
            send: claims.patterns("send")?.map(Patterns::from_iter),
            publish: claims.topics("publish")?,
            subscribe: claims.topics("subscribe")?,
            presence: claims.topics("presence")?,
            watch: Patterns::from_iter(claims.patterns("watch")?.unwrap_or_default()),
            mailboxes: Patterns::from_iter(claims.patterns("mailboxes")?.unwrap_or_default()),
            expires,
        };
        grant.checked()
    }

    /// Verifies the signature of a token and returns its claims.
    fn open(&self, token: &str) -> Result<Object, Denied> {
        if token.len() > MAX_TOKEN {
            return Err(unauthorized("token: too long"));
        }
        let Key {
            decoding,
            algorithms,
        } = &self.key;
        let token = jsonwebtoken::decode::<Object>(token, decoding, &validation(algorithms));
        let token = token.map_err(|error| {
            unauthorized(match error.kind() {
                ErrorKind::InvalidAlgorithm => "token: alg is not allowed",
                ErrorKind::InvalidSignature => "token: wrong signature",
                _ => "token: malformed",
            })
        })?;
        // Critical extensions must be supported (RFC 7515, 4.1.11), and none is.
        match token.header.crit {
            Some(_) => Err(unauthorized("token: crit is not supported")),
            None => Ok(token.claims),
        }
    }

    /// Checks `exp` and `nbf`; returns the time at which the grant expires.
    fn check_time(&self, claims: &Object, now: SystemTime) -> Result<Option<SystemTime>, Denied> {
        let expires = claims.date("exp")?.map(|exp| exp + self.leeway);
        match expires {
            None if self.require_exp => return Err(unauthorized("token: exp is missing")),
            Some(expires) if expires <= now => return Err(unauthorized("token: expired")),
            _ => {}
        }
        let early = claims
            .date("nbf")?
            .and_then(|nbf| nbf.duration_since(now).ok());
        if early.is_some_and(|early| early > self.leeway) {
            return Err(unauthorized("token: not valid yet"));
        }
        Ok(expires)
    }

    /// Checks `iss` and `aud`.
    fn check_parties(&self, claims: &Object) -> Result<(), Denied> {
        let is_one_of = |list: &[String], found: &str| list.iter().any(|entry| entry == found);
        let issuer = claims.string("iss")?;
        if !self.issuer.is_empty() && !issuer.is_some_and(|iss| is_one_of(&self.issuer, iss)) {
            return Err(unauthorized("token: iss is not allowed"));
        }
        let audience = claims.strings("aud")?.unwrap_or_default();
        if !self.audience.is_empty() && !audience.iter().any(|aud| is_one_of(&self.audience, aud)) {
            return Err(unauthorized("token: aud is not allowed"));
        }
        Ok(())
    }
}

/// The members of a JSON object. Duplicates are refused (RFC 7519, 4): two parsers could each pick a
/// different one.
struct Object(HashMap<String, Value>);

impl Object {
    fn string(&self, name: &str) -> Result<Option<&str>, Denied> {
        let value = self.0.get(name);
        value
            .map(|value| value.as_str().ok_or_else(|| malformed(name)))
            .transpose()
    }

    /// A claim that is a string or an array of strings.
    fn strings(&self, name: &str) -> Result<Option<Vec<&str>>, Denied> {
        let strings = match self.0.get(name) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.iter().map(Value::as_str).collect(),
            Some(value) => value.as_str().map(|value| vec![value]),
        };
        strings.map(Some).ok_or_else(|| malformed(name))
    }

    /// A claim of patterns over topics: none are allowed without it.
    fn topics(&self, name: &str) -> Result<TopicPatterns, Denied> {
        let patterns = self.patterns(name)?.unwrap_or_default();
        match patterns.iter().all(|pattern| is_pattern(pattern)) {
            true => Ok(TopicPatterns::from_iter(patterns)),
            false => Err(malformed(name)),
        }
    }

    fn patterns(&self, name: &str) -> Result<Option<Vec<&str>>, Denied> {
        let Some(patterns) = self.strings(name)? else {
            return Ok(None);
        };
        if patterns.len() > MAX_PATTERNS || patterns.iter().any(|p| p.len() > MAX_PATTERN) {
            return Err(malformed(name));
        }
        Ok(Some(patterns))
    }

    /// A claim in seconds since 1970, possibly with a fraction. Times before 1970 count as 1970: they are
    /// past in any case.
    fn date(&self, name: &str) -> Result<Option<SystemTime>, Denied> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        let seconds = value.as_f64().map(|seconds| seconds.max(0.0));
        let seconds = seconds.filter(|&seconds| seconds <= MAX_DATE);
        let date = seconds.map(|seconds| UNIX_EPOCH + Duration::from_secs_f64(seconds));
        date.map(Some).ok_or_else(|| malformed(name))
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut members = HashMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(de::Error::custom("a member occurs twice"));
                    }
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Settings that check only the signature: the claims are checked by this module, with their types.
fn validation(algorithms: &[Algorithm]) -> Validation {
    let mut validation = Validation::new(algorithms[0]);
    validation.algorithms = algorithms.to_vec();
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn unauthorized(reason: &'static str) -> Denied {
    Denied::Unauthorized(reason.into())
}

fn malformed(name: &str) -> Denied {
    Denied::Unauthorized(format!("token: {name} is malformed").into())
}
