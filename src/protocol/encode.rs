//! Encodes actions as JSON text, in pieces that are joined in the write buffer. The cited rules are those of
//! `spec/protocol.md`.

pub(crate) mod version_2;

/// The pieces of a frame.
pub(crate) type Pieces<'a> = [&'a str; 7];

/// Encodes `message`, for a receiver; `from` is the sender's id as JSON (rule 11).
pub(crate) fn message<'a>(
    message: &'a str,
    ack: Option<&'a str>,
    from: Option<&'a str>,
) -> Pieces<'a> {
    let [ack_name, ack] = member(",\"ack\":", ack);
    let [from_name, from] = member(",\"from\":", from);
    [
        "{\"action\":\"message\",\"message\":",
        message,
        ack_name,
        ack,
        from_name,
        from,
        "}",
    ]
}

/// Encodes `message`, for the subscribers of a topic; `end` is of [`version_2::publication_end`] (rule 36.2).
pub(crate) fn publication<'a>(
    message: &'a str,
    ack: Option<&'a str>,
    from: Option<&'a str>,
    end: &'a str,
) -> Pieces<'a> {
    let mut pieces = self::message(message, ack, from);
    pieces[6] = end;
    pieces
}

/// Encodes `answer`, for the asker (rule 12).
pub(crate) fn answer<'a>(
    ack: &'a str,
    from: Option<&'a str>,
    message: Option<&'a str>,
) -> Pieces<'a> {
    let [from_name, from] = member(",\"from\":", from);
    let [message_name, message] = member(",\"message\":", message);
    [
        "{\"action\":\"answer\",\"ack\":",
        ack,
        from_name,
        from,
        message_name,
        message,
        "}",
    ]
}

/// The member that requests or confirms version 2.
fn protocol(version: u8) -> &'static str {
    match version {
        1 => "",
        _ => ",\"protocol\":2",
    }
}

/// Encodes `registered`, with the id as JSON (rule 10), and the protocol version used from now on.
pub(crate) fn registered(id: &str, version: u8) -> Pieces<'_> {
    [
        "{\"action\":\"registered\",\"id\":",
        id,
        protocol(version),
        "}",
        "",
        "",
        "",
    ]
}

/// Encodes `unregistered`, with the id as JSON (rule 13).
pub(crate) fn unregistered(id: &str) -> Pieces<'_> {
    [
        "{\"action\":\"unregistered\",\"id\":",
        id,
        "}",
        "",
        "",
        "",
        "",
    ]
}

/// Encodes a client's `register`, with the id as JSON (left out if it has no JSON text), the token and the
/// protocol version. `session`: empty, or of [`super::ask_session`].
pub(crate) fn register<'a>(
    id: Option<&'a str>,
    token: Option<&'a str>,
    version: u8,
    session: &'a str,
) -> [&'a str; 8] {
    let [name, id] = member(",\"id\":", id);
    let [token_name, token] = member(",\"token\":", token);
    [
        "{\"action\":\"register\"",
        name,
        id,
        token_name,
        token,
        session,
        protocol(version),
        "}",
    ]
}

/// Encodes a client's `unregister`, with the id as JSON.
pub(crate) fn unregister(id: Option<&str>) -> Pieces<'_> {
    let [name, id] = member(",\"id\":", id);
    ["{\"action\":\"unregister\"", name, id, "}", "", "", ""]
}

/// Encodes a client's `send`. A message or dest without JSON text is left out; the server then refuses the
/// action.
pub(crate) fn send<'a>(message: &'a str, dest: &'a str, ack: &'a str) -> Vec<&'a str> {
    let mut pieces = vec!["{\"action\":\"send\""];
    pieces.extend(member(",\"message\":", present(message)));
    pieces.extend(member(",\"dest\":", present(dest)));
    pieces.extend(member(",\"ack\":", present(ack)));
    pieces.push("}");
    pieces
}

/// Encodes a client's `answer`; version 1 adds the id of the responder.
pub(crate) fn client_answer<'a>(
    ack: &'a str,
    message: &'a str,
    from: Option<&'a str>,
) -> Vec<&'a str> {
    let mut pieces = vec!["{\"action\":\"answer\",\"ack\":", ack];
    pieces.extend(member(",\"message\":", present(message)));
    pieces.extend(member(",\"from\":", from));
    pieces.push("}");
    pieces
}

fn member<'a>(name: &'a str, value: Option<&'a str>) -> [&'a str; 2] {
    value.map_or(["", ""], |value| [name, value])
}

fn present(raw: &str) -> Option<&str> {
    (!raw.is_empty()).then_some(raw)
}
