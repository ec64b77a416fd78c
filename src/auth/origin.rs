//! From which pages browsers may connect.

/// True if a page of this origin may connect. `host`: what the request names.
pub(crate) fn is_allowed_origin(
    origin: &str,
    allowed: Option<&[String]>,
    host: Option<&str>,
    _secure: bool,
) -> bool {
    let Some(allowed) = allowed else {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        return authority.is_some() && authority == host;
    };
    allowed
        .iter()
        .any(|entry| entry == "*" || entry.eq_ignore_ascii_case(origin))
}
