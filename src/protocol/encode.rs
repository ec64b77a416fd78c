//! Actions as JSON text, in pieces that are joined where the bytes will lie. The rules cited are
//! those of `spec/protocol.md`.

pub(crate) mod version_2;

/// A frame as the pieces it is made of: they are joined where the bytes will lie.
pub(crate) type Pieces<'a> = [&'a str; 7];

/// `message`, for a receiver; `from` is the sender's id as JSON (rule 11).
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

/// `answer`, for the asker (rule 12).
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

/// The member that asks for version 2, or confirms it.
fn protocol(version: u8) -> &'static str {
    match version {
        1 => "",
        _ => ",\"protocol\":2",
    }
}

/// `registered`; the id as JSON (rule 10), and the version that is spoken from now on.
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

/// `unregistered`; the id as JSON (rule 13).
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

/// A client's `register`; the id as JSON, left out where JSON has no text for it, the token, and
/// the version that it speaks.
pub(crate) fn register<'a>(id: Option<&'a str>, token: Option<&'a str>, version: u8) -> Pieces<'a> {
    let [name, id] = member(",\"id\":", id);
    let [token_name, token] = member(",\"token\":", token);
    [
        "{\"action\":\"register\"",
        name,
        id,
        token_name,
        token,
        protocol(version),
        "}",
    ]
}

/// A client's `unregister`; the id as JSON.
pub(crate) fn unregister(id: Option<&str>) -> Pieces<'_> {
    let [name, id] = member(",\"id\":", id);
    ["{\"action\":\"unregister\"", name, id, "}", "", "", ""]
}

/// A client's `send`; a message or dest that JSON drops is left out, and the server complains.
pub(crate) fn send<'a>(message: &'a str, dest: &'a str, ack: &'a str) -> Vec<&'a str> {
    let mut pieces = vec!["{\"action\":\"send\""];
    pieces.extend(member(",\"message\":", present(message)));
    pieces.extend(member(",\"dest\":", present(dest)));
    pieces.extend(member(",\"ack\":", present(ack)));
    pieces.push("}");
    pieces
}

/// A client's `answer`; version 1 adds the id of the one who answers.
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
