//! JSON Web Tokens: which are accepted, and the grants they carry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use ring::hmac;
use serde_json::{Value, json};
use wsmsgbroker::{
    Error,
    auth::{
        Authenticate, Credentials, Decision, Denied, Grant, Jwt, JwtKey, JwtOptions, Patterns,
        Subject,
    },
};

/// Seconds since 1970 at which all of this happens.
const NOW: u64 = 1_800_000_000;
const UNAUTHORIZED: &str = "ERR_WSMB_UNAUTHORIZED";
const FORBIDDEN: &str = "ERR_WSMB_FORBIDDEN";
const SECRET: &[u8] = b"a secret of more than 32 bytes, for HS256";
/// Tokens of another implementation: see `tests/keys/README.md`.
const TOKENS: &str = include_str!("../keys/tokens.txt");

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn options() -> JwtOptions {
    JwtOptions::new(JwtKey::Secret(SECRET.to_vec()))
}

fn jwt(change: impl FnOnce(&mut JwtOptions)) -> Jwt {
    let mut options = options();
    change(&mut options);
    Jwt::new(options).unwrap()
}

/// The key for an algorithm's token in `TOKENS`.
fn key(algorithm: &str) -> JwtKey {
    let secret =
        b"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    JwtKey::PublicKey(
        match algorithm {
            "ES256" => include_str!("../keys/p256.pem"),
            "ES384" => include_str!("../keys/p384.pem"),
            "EdDSA" => include_str!("../keys/ed25519.pem"),
            name if name.starts_with("HS") => {
                return JwtKey::Secret(BASE64URL_NOPAD.decode(secret).unwrap());
            }
            _ => include_str!("../keys/rsa.pem"),
        }
        .into(),
    )
}

fn encode(part: impl AsRef<[u8]>) -> String {
    BASE64URL_NOPAD.encode(part.as_ref())
}

/// A token of these parts, signed with a secret as for HS256.
fn sign_with(secret: &[u8], header: &str, claims: &str) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}

fn sign(claims: &str) -> String {
    sign_with(SECRET, r#"{"alg":"HS256"}"#, claims)
}

/// Claims that are accepted, but for these members; `null` takes one away.
fn claims(members: Value) -> String {
    let mut claims = json!({ "sub": "alice", "exp": NOW + 60 });
    for (name, value) in members.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims
                .as_object_mut()
                .unwrap()
                .insert(name.clone(), value.clone()),
        };
    }
    claims.to_string()
}

fn judge(jwt: &Jwt, claims: &str) -> Result<Grant, &'static str> {
    let decision = jwt.verify(Some(&sign(claims)), "alice", at(NOW));
    decision.map_err(|denied| {
        assert!(denied.reason().len() <= 120 && !denied.reason().is_empty());
        denied.code()
    })
}

#[track_caller]
fn accepted(jwt: &Jwt, members: Value) -> Grant {
    judge(jwt, &claims(members)).unwrap()
}

#[track_caller]
fn refused(jwt: &Jwt, members: Value) {
    assert_eq!(judge(jwt, &claims(members)).unwrap_err(), UNAUTHORIZED);
}

#[test]
fn tokens_of_another_implementation_are_accepted_in_every_algorithm() {
    assert_eq!(TOKENS.lines().count(), 12);
    for (algorithm, token) in TOKENS.lines().map(|line| line.split_once(' ').unwrap()) {
        let mut options = JwtOptions::new(key(algorithm));
        options.algorithms = vec![algorithm.into()];
        let jwt = Jwt::new(options).unwrap();
        let grant = jwt.verify(Some(token), "alice", at(NOW)).unwrap();
        let expected = Grant {
            expires: Some(at(2_000_000_000)),
            ..Grant::new("alice")
        };
        assert_eq!(grant, expected, "{algorithm}");
    }
}

#[test]
fn a_token_of_another_algorithm_or_key_is_refused() {
    let lines = || TOKENS.lines().map(|line| line.split_once(' ').unwrap());
    for (algorithm, _) in lines() {
        let mut options = JwtOptions::new(key(algorithm));
        options.algorithms = vec![algorithm.into()];
        let jwt = Jwt::new(options).unwrap();
        for (other, token) in lines().filter(|(other, _)| *other != algorithm) {
            let denied = jwt.verify(Some(token), "alice", at(NOW)).unwrap_err();
            assert_eq!(denied.code(), UNAUTHORIZED, "{algorithm} {other}");
            // The same, but with the header that is expected.
            let (_, rest) = token.split_once('.').unwrap();
            let header = encode(json!({ "alg": algorithm, "typ": "JWT" }).to_string());
            let token = format!("{header}.{rest}");
            let denied = jwt.verify(Some(&token), "alice", at(NOW)).unwrap_err();
            assert_eq!(denied.code(), UNAUTHORIZED, "{algorithm} {other}");
        }
    }
}

#[test]
fn a_token_that_was_tampered_with_is_refused_in_every_algorithm() {
    for (algorithm, token) in TOKENS.lines().map(|line| line.split_once(' ').unwrap()) {
        let mut options = JwtOptions::new(key(algorithm));
        options.algorithms = vec![algorithm.into()];
        let jwt = Jwt::new(options).unwrap();
        // Every sixth character, or RSA would take long; other ones in each algorithm.
        for place in (algorithm.len() % 6..token.len()).step_by(6) {
            let mut bytes = token.as_bytes().to_vec();
            bytes[place] = match bytes[place] {
                b'A' => b'B',
                b'.' => b'A',
                _ => b'A',
            };
            let tampered = String::from_utf8(bytes).unwrap();
            let decision = jwt.verify(Some(&tampered), "alice", at(NOW));
            let code = decision.unwrap_err().code();
            assert_eq!(code, UNAUTHORIZED, "{algorithm} at {place}");
        }
        let (message, signature) = token.rsplit_once('.').unwrap();
        let claims = json!({ "sub": "mallory", "exp": 2_000_000_000 }).to_string();
        let (header, _) = message.split_once('.').unwrap();
        for tampered in [
            message.to_owned(),
            format!("{message}."),
            format!("{token}."),
            format!("{token}A"),
            format!("{token}="),
            format!(" {token}"),
            format!("{token}\n"),
            format!("{message}.{}", &signature[..signature.len() - 4]),
            format!("{header}.{}.{signature}", encode(claims)),
        ] {
            let decision = jwt.verify(Some(&tampered), "alice", at(NOW));
            assert_eq!(decision.unwrap_err().code(), UNAUTHORIZED, "{tampered}");
        }
    }
}

#[test]
fn a_public_key_is_never_used_as_a_secret() {
    let pem = include_str!("../keys/rsa.pem");
    let jwt = Jwt::new(JwtOptions::new(JwtKey::PublicKey(pem.into()))).unwrap();
    for secret in [pem, pem.trim_end()] {
        for header in [r#"{"alg":"HS256"}"#, r#"{"alg":"RS256"}"#] {
            let token = sign_with(secret.as_bytes(), header, &claims(json!({})));
            let denied = jwt.verify(Some(&token), "alice", at(NOW)).unwrap_err();
            assert_eq!(denied.code(), UNAUTHORIZED, "{header}");
        }
    }
}

#[test]
fn an_unsigned_token_is_refused() {
    let jwt = jwt(|_| {});
    for name in ["none", "None", "NONE", "nOnE", "", "HS256", "hs256"] {
        let header = encode(json!({ "alg": name }).to_string());
        let message = format!("{header}.{}", encode(claims(json!({}))));
        for token in [format!("{message}."), message] {
            let denied = jwt.verify(Some(&token), "alice", at(NOW)).unwrap_err();
            assert_eq!(denied.code(), UNAUTHORIZED, "{name}");
        }
    }
}

#[test]
fn an_unknown_critical_header_is_refused() {
    let jwt = jwt(|_| {});
    for header in [
        "",
        "{}",
        "null",
        "[]",
        r#"["HS256"]"#,
        r#""HS256""#,
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":256}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"none","alg":"HS256"}"#,
        r#"{"alg":"HS256","alg":"none"}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":["b64"],"b64":false}"#,
        r#"{"alg":"HS256"}}"#,
        r#"{"alg":"HS256""#,
    ] {
        let token = sign_with(SECRET, header, &claims(json!({})));
        let denied = jwt.verify(Some(&token), "alice", at(NOW)).unwrap_err();
        assert_eq!(denied.code(), UNAUTHORIZED, "{header}");
    }
    // A key in the header is of no interest; other members are none of ours.
    let header = r#"{"alg":"HS256","typ":"x","kid":"1","jwk":{"kty":"oct","k":"AA"},"x5c":[]}"#;
    let token = sign_with(SECRET, header, &claims(json!({})));
    jwt.verify(Some(&token), "alice", at(NOW)).unwrap();
    let token = sign_with(b"\0", header, &claims(json!({})));
    jwt.verify(Some(&token), "alice", at(NOW)).unwrap_err();
}

#[test]
fn a_missing_or_too_long_token_is_refused() {
    let jwt = jwt(|_| {});
    for token in [None, Some(""), Some("."), Some(".."), Some("a.b.c")] {
        let denied = jwt.verify(token, "alice", at(NOW)).unwrap_err();
        assert_eq!(denied.code(), UNAUTHORIZED, "{token:?}");
    }
    let token = |length| sign(&claims(json!({ "more": "x".repeat(length) })));
    let longest = (0..).find(|&length| token(length).len() > 8192).unwrap() - 1;
    jwt.verify(Some(&token(longest)), "alice", at(NOW)).unwrap();
    let denied = jwt.verify(Some(&token(longest + 1)), "alice", at(NOW));
    assert_eq!(denied.unwrap_err().code(), UNAUTHORIZED);
}

#[test]
fn a_token_is_valid_until_just_before_exp() {
    let jwt = jwt(|_| {});
    let grant = accepted(&jwt, json!({ "exp": NOW + 1 }));
    assert_eq!(grant.expires, Some(at(NOW + 1)));
    let grant = accepted(&jwt, json!({ "exp": NOW as f64 + 0.5 }));
    assert_eq!(grant.expires, Some(at(NOW) + Duration::from_millis(500)));
    refused(&jwt, json!({ "exp": NOW }));
    refused(&jwt, json!({ "exp": NOW - 1 }));
    refused(&jwt, json!({ "exp": 0 }));
    refused(&jwt, json!({ "exp": -1 }));
    refused(&jwt, json!({ "exp": -1e300 }));
}

#[test]
fn an_exp_that_is_no_date_is_refused() {
    for jwt in [jwt(|_| {}), jwt(|options| options.require_exp = false)] {
        for exp in [
            json!((NOW + 60).to_string()),
            json!(true),
            json!([NOW + 60]),
            json!({}),
            json!(u64::MAX),
            json!(i64::MAX),
            json!(1e300),
            // Milliseconds.
            json!((NOW + 60) * 1000),
        ] {
            refused(&jwt, json!({ "exp": exp }));
        }
        for exp in ["null", "1e999", "NaN", "Infinity", "0x7fffffff"] {
            let claims = format!(r#"{{"sub":"alice","exp":{exp}}}"#);
            assert_eq!(judge(&jwt, &claims).unwrap_err(), UNAUTHORIZED, "{exp}");
        }
        let last = 253_402_300_799_u64;
        let grant = accepted(&jwt, json!({ "exp": last }));
        assert_eq!(grant.expires, Some(at(last)));
    }
}

#[test]
fn exp_is_required_unless_the_options_disable_that() {
    refused(&jwt(|_| {}), json!({ "exp": null }));
    let lenient = jwt(|options| options.require_exp = false);
    assert_eq!(accepted(&lenient, json!({ "exp": null })).expires, None);
    refused(&lenient, json!({ "exp": NOW }));
}

#[test]
fn a_token_is_refused_before_nbf() {
    let jwt = jwt(|_| {});
    for nbf in [json!(NOW), json!(NOW - 1), json!(0), json!(-5), json!(0.5)] {
        accepted(&jwt, json!({ "nbf": nbf }));
    }
    for nbf in [
        json!(NOW + 1),
        json!(NOW as f64 + 0.5),
        json!(u64::MAX),
        json!("0"),
        json!(false),
        json!([]),
    ] {
        refused(&jwt, json!({ "nbf": nbf }));
    }
    let claims = format!(r#"{{"sub":"alice","exp":{},"nbf":null}}"#, NOW + 60);
    assert_eq!(judge(&jwt, &claims).unwrap_err(), UNAUTHORIZED);
}

#[test]
fn leeway_widens_both_ends() {
    let jwt = jwt(|options| options.leeway = Duration::from_secs(10));
    let grant = accepted(&jwt, json!({ "exp": NOW - 9, "nbf": NOW + 10 }));
    assert_eq!(grant.expires, Some(at(NOW + 1)));
    refused(&jwt, json!({ "exp": NOW - 10 }));
    refused(&jwt, json!({ "nbf": NOW + 11 }));
}

#[test]
fn sub_is_the_id() {
    let jwt = jwt(|_| {});
    assert_eq!(&*accepted(&jwt, json!({})).principal, "alice");
    refused(&jwt, json!({ "sub": null }));
    for sub in [
        json!(""),
        json!(5),
        json!(["alice"]),
        json!({}),
        json!(true),
    ] {
        refused(&jwt, json!({ "sub": sub }));
    }
    for sub in ["bob", "Alice", "alice ", "alic", "*", "a*"] {
        let judged = judge(&jwt, &claims(json!({ "sub": sub })));
        assert_eq!(judged.unwrap_err(), FORBIDDEN, "{sub}");
    }
    // An id may hold a star: it is the same text, and no pattern.
    let token = sign(&claims(json!({ "sub": "a*" })));
    jwt.verify(Some(&token), "a*", at(NOW)).unwrap();
    let denied = jwt.verify(Some(&token), "ab", at(NOW)).unwrap_err();
    assert_eq!(denied.code(), FORBIDDEN);
    let token = sign(&claims(json!({ "sub": "\0alice" })));
    let denied = jwt.verify(Some(&token), "\0alice", at(NOW)).unwrap_err();
    assert_eq!(denied.code(), FORBIDDEN);
    assert_eq!(denied.reason(), "the principal begins with NUL");
    // Not even for the empty id.
    let token = sign(&claims(json!({ "sub": "" })));
    let denied = jwt.verify(Some(&token), "", at(NOW)).unwrap_err();
    assert_eq!(denied.code(), UNAUTHORIZED);
}

#[test]
fn sub_may_be_a_pattern_if_the_options_allow_it() {
    let jwt = jwt(|options| options.subject = Subject::Pattern);
    for sub in ["alice", "a*", "*", "*l*ce"] {
        let grant = accepted(&jwt, json!({ "sub": sub }));
        assert_eq!(&*grant.principal, sub);
    }
    for sub in ["bob", "b*", "a*b"] {
        let judged = judge(&jwt, &claims(json!({ "sub": sub })));
        assert_eq!(judged.unwrap_err(), FORBIDDEN, "{sub}");
    }
    refused(&jwt, json!({ "sub": ["*"] }));
}

#[test]
fn iss_must_be_one_of_the_issuers() {
    let any = jwt(|_| {});
    let two = jwt(|options| options.issuer = vec!["https://a".into(), "https://b".into()]);
    accepted(&any, json!({ "iss": "https://c" }));
    accepted(&two, json!({ "iss": "https://b" }));
    refused(&two, json!({}));
    for iss in ["https://c", "https://a/", "HTTPS://A", ""] {
        refused(&two, json!({ "iss": iss }));
    }
    for iss in [json!(["https://a"]), json!(1), json!({}), json!(true)] {
        refused(&any, json!({ "iss": iss }));
        refused(&two, json!({ "iss": iss }));
    }
}

#[test]
fn aud_must_name_one_of_the_audiences() {
    let any = jwt(|_| {});
    let two = jwt(|options| options.audience = vec!["broker".into(), "b2".into()]);
    accepted(&any, json!({ "aud": "someone" }));
    accepted(&any, json!({ "aud": ["someone"] }));
    for aud in [json!("broker"), json!(["b2"]), json!(["x", "broker"])] {
        accepted(&two, json!({ "aud": aud }));
    }
    refused(&two, json!({}));
    for aud in [json!("x"), json!([]), json!(["x"]), json!("broker,b2")] {
        refused(&two, json!({ "aud": aud }));
    }
    for aud in [
        json!(1),
        json!({ "broker": 1 }),
        json!(["broker", 1]),
        json!([["broker"]]),
    ] {
        refused(&any, json!({ "aud": aud }));
        refused(&two, json!({ "aud": aud }));
    }
}

#[test]
fn send_limits_the_ids_that_the_client_may_address() {
    let jwt = jwt(|_| {});
    let send = |send: Value| accepted(&jwt, json!({ "send": send })).send;
    assert_eq!(accepted(&jwt, json!({})).send, None);
    assert_eq!(send(json!("b*")), Some(Patterns::from_iter(["b*"])));
    let two = Some(Patterns::from_iter(["b*", "c"]));
    assert_eq!(send(json!(["b*", "c"])), two);
    assert_eq!(send(json!([])), Some(Patterns::from_iter([""; 0])));
    for send in [json!(true), json!(1), json!({}), json!(["a", 1])] {
        refused(&jwt, json!({ "send": send }));
    }
    let claims = format!(r#"{{"sub":"alice","exp":{},"send":null}}"#, NOW + 60);
    assert_eq!(judge(&jwt, &claims).unwrap_err(), UNAUTHORIZED);
}

#[test]
fn patterns_of_a_token_are_bounded_in_number_and_length() {
    let jwt = jwt(|_| {});
    accepted(&jwt, json!({ "send": vec!["a*"; 256] }));
    refused(&jwt, json!({ "send": vec!["a*"; 257] }));
    accepted(&jwt, json!({ "send": ["a".repeat(1024)] }));
    refused(&jwt, json!({ "send": ["a", "a".repeat(1025)] }));
}

#[test]
fn claims_that_are_no_object_with_distinct_members_are_refused() {
    let jwt = jwt(|_| {});
    let exp = NOW + 60;
    for claims in [
        String::new(),
        "null".into(),
        "[]".into(),
        format!(r#"["alice",null,null,{exp}]"#),
        r#""alice""#.into(),
        format!(r#"{{"sub":"alice","exp":{exp}"#),
        format!(r#"{{"sub":"alice","exp":{exp}}} x"#),
        format!(r#"{{"sub":"bob","sub":"alice","exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","sub":"alice","exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"\u0073ub":"bob"}}"#),
        format!(r#"{{"sub":"alice","exp":1,"exp":{exp}}}"#),
        format!(r#"{{"sub":"alice","exp":{exp},"x":1,"x":1}}"#),
        format!(
            r#"{{"sub":"alice","exp":{exp},"x":{}1{}}}"#,
            "[".repeat(500),
            "]".repeat(500)
        ),
    ] {
        assert_eq!(judge(&jwt, &claims).unwrap_err(), UNAUTHORIZED, "{claims}");
    }
    let claims = format!(" {{ \"\\u0073ub\" : \"al\\u0069ce\" , \"exp\" : {exp}.0e0 }}\n");
    judge(&jwt, &claims).unwrap();
}

#[test]
fn a_denial_does_not_reveal_the_token_or_the_key() {
    let jwt = jwt(|_| {});
    let (message, _) = TOKENS.split_once('\n').unwrap();
    let (_, token) = message.split_once(' ').unwrap();
    let secret = std::str::from_utf8(SECRET).unwrap();
    for token in [Some(token), None, Some(secret), Some("x")] {
        let denied = jwt.verify(token, "alice", at(NOW)).unwrap_err();
        let text = format!("{denied} {denied:?}");
        assert!(!text.contains(secret) && !text.contains("eyJ"), "{text}");
    }
    assert!(!format!("{:?} {jwt:?}", options()).contains("secret of"));
}

/// Random bytes, random characters of tokens, and a good token with random changes.
#[test]
fn no_random_token_is_accepted() {
    let mut random = StdRng::seed_from_u64(1);
    let jwt = jwt(|options| options.subject = Subject::Pattern);
    let good = sign(&claims(json!({ "sub": "*" })));
    jwt.verify(Some(&good), "alice", at(NOW)).unwrap();
    let alphabet = b"ABCDEFyz019-_.eJ{}\"= ";
    for round in 0..3_000 {
        let length = random.random_range(0..300);
        let bytes: Vec<u8> = match round % 3 {
            0 => (0..length).map(|_| random.random()).collect(),
            1 => (0..length)
                .map(|_| alphabet[random.random_range(0..alphabet.len())])
                .collect(),
            _ => {
                let mut bytes = good.clone().into_bytes();
                for _ in 0..random.random_range(1..4) {
                    let place = random.random_range(0..bytes.len());
                    match random.random_range(0..3) {
                        0 => bytes[place] = alphabet[random.random_range(0..alphabet.len())],
                        1 => bytes.truncate(place + 1),
                        _ => bytes.insert(place, alphabet[random.random_range(0..alphabet.len())]),
                    }
                }
                bytes
            }
        };
        let token = String::from_utf8_lossy(&bytes);
        if token != good {
            let denied = jwt.verify(Some(&token), "alice", at(NOW)).unwrap_err();
            assert_eq!(denied.code(), UNAUTHORIZED, "{token}");
        }
    }
}

/// Signed by the issuer, and yet nonsense: whatever is in a claim, it is judged.
#[test]
fn signed_claims_of_any_type_are_accepted_or_refused() {
    let mut random = StdRng::seed_from_u64(2);
    let jwt = jwt(|options| {
        options.issuer = vec!["".into()];
        options.audience = vec!["".into()];
        options.require_exp = false;
    });
    let values = [
        "null",
        "true",
        "0",
        "-0.0",
        "1",
        "-1",
        "1e308",
        "-1e308",
        "5e-324",
        "1800000060",
        "18446744073709551615",
        "-9223372036854775808",
        r#""""#,
        r#""alice""#,
        r#""\ud83d\ude00""#,
        "[]",
        r#"[""]"#,
        r#"["*"]"#,
        "[[]]",
        "{}",
        r#"{"a":1}"#,
    ];
    let mut granted = 0;
    for _ in 0..5_000 {
        let mut members = Vec::new();
        for (name, good) in [
            ("sub", r#""alice""#),
            ("iss", r#""""#),
            ("aud", r#"["", "x"]"#),
            ("exp", "1800000060"),
            ("nbf", "1"),
            ("send", r#""*""#),
            ("iat", "1"),
        ] {
            let value = values[random.random_range(0..values.len())];
            match random.random_range(0..6) {
                0 => {}
                1 => members.push(format!("\"{name}\":{value}")),
                _ => members.push(format!("\"{name}\":{good}")),
            }
        }
        let claims = format!("{{{}}}", members.join(","));
        if let Ok(grant) = judge(&jwt, &claims) {
            granted += 1;
            assert_eq!(&*grant.principal, "alice");
            assert!(grant.expires.is_none_or(|expires| expires > at(NOW)));
            for member in [r#""sub":"alice""#, r#""iss":"""#, r#""aud":"#] {
                assert!(claims.contains(member), "{claims}");
            }
        }
    }
    assert!(granted > 0, "the claims are too wild to say anything");
}

#[test]
fn a_leeway_of_hours_is_refused() {
    let mut options = options();
    options.leeway = Duration::from_secs(601);
    let Err(Error::InvalidOption { name, .. }) = Jwt::new(options) else {
        panic!("accepted");
    };
    assert_eq!(name, "jwt.leeway");
}

fn credentials(token: Option<String>) -> Credentials {
    Credentials {
        id: "alice".into(),
        token,
        headers: [].into(),
        url: "/".into(),
        certificate: None,
        context: None,
        remote_address: "127.0.0.1".into(),
        secure: false,
    }
}

#[tokio::test]
async fn jwt_is_a_hook_that_verifies_the_token_at_once() {
    let hook: Box<dyn Authenticate> = Box::new(jwt(|_| {}));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let exp = now.as_secs() + 3600;
    let token = sign(&claims(json!({ "exp": exp })));
    let grant = hook.authenticate(credentials(Some(token))).await.unwrap();
    assert_eq!(grant.expires, Some(at(exp)));
    let token = sign(&claims(json!({ "exp": now.as_secs() })));
    for token in [Some(token), None] {
        let denied = hook.authenticate(credentials(token)).await.unwrap_err();
        assert_eq!(denied.code(), UNAUTHORIZED);
    }
}

#[tokio::test]
async fn a_closure_is_a_hook() {
    let hook: Box<dyn Authenticate> = Box::new(|shown: Credentials| -> Decision {
        Box::pin(async move {
            match shown.token.as_deref() {
                Some("open sesame") => Ok(Grant::new(shown.id)),
                _ => Err(Denied::Forbidden("closed".into())),
            }
        })
    });
    let shown = credentials(Some("open sesame".into()));
    assert_eq!(hook.authenticate(shown).await, Ok(Grant::new("alice")));
    let denied = hook.authenticate(credentials(None)).await.unwrap_err();
    assert_eq!(denied.code(), FORBIDDEN);
}
