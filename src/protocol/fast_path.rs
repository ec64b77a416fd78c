//! Decodes frames whose members are in the usual order, without whitespace between them, as version 1, this
//! crate and most other clients write them. `None` means only that the frame is written differently.

use super::{
    ClientAction, RawReplyOptions, ServerAction,
    json_scan::Cursor,
    values::{decode_protocol, is_truthy},
};

pub(super) fn client_action(text: &str) -> Option<ClientAction<'_>> {
    let mut at = Cursor::new(text);
    if at.skip(r#"{"action":"send","message":"#) {
        let message = at.value()?;
        let dest = at.skip(r#","dest":"#).then(|| at.value())??;
        let ack = member(&mut at, r#","ack":"#)?;
        let reply = match at.ends("}") {
            true => None,
            false => Some(reply(&mut at)?),
        };
        return Some(ClientAction::Send {
            message,
            dest,
            ack,
            reply,
        });
    }
    if at.skip(r#"{"action":"answer","ack":"#) {
        let ack = at.value()?;
        let message = member(&mut at, r#","message":"#)?;
        member(&mut at, r#","from":"#)?;
        let mut error = None;
        if !at.ends("}") {
            error = member(&mut at, r#","error":"#)?.filter(|error| is_truthy(error));
            member(&mut at, r#","from":"#)?;
        }
        return (at.ends("}") && is_truthy(ack)).then_some(ClientAction::Answer {
            ack,
            message,
            error,
        });
    }
    if at.skip(r#"{"action":"register","id":"#) {
        let id = at.value()?;
        let token = member(&mut at, r#","token":"#)?;
        let protocol = decode_protocol(member(&mut at, r#","protocol":"#)?);
        return (at.ends("}") && is_truthy(id)).then_some(ClientAction::Register {
            id,
            token,
            protocol,
        });
    }
    if at.skip(r#"{"action":"cancel","ack":"#) {
        let ack = Some(at.value()?);
        return at.ends("}").then_some(ClientAction::Cancel { ack });
    }
    None
}

/// Decodes the options of a `send` of version 2. Not inlined, so that the path of all other frames is short.
#[inline(never)]
fn reply<'a>(at: &mut Cursor<'a>) -> Option<Box<RawReplyOptions<'a>>> {
    let reply = RawReplyOptions {
        reference: member(at, r#","ref":"#)?,
        answers: member(at, r#","answers":"#)?,
        timeout: member(at, r#","timeout":"#)?,
    };
    at.ends("}").then(|| Box::new(reply))
}

pub(super) fn server_action(text: &str, version: u8) -> Option<ServerAction<'_>> {
    let mut at = Cursor::new(text);
    if at.skip(r#"{"action":"message","message":"#) {
        let message = Some(at.value()?);
        let ack = member(&mut at, r#","ack":"#)?.filter(|ack| is_truthy(ack));
        let from = member(&mut at, r#","from":"#)?;
        return at
            .ends("}")
            .then_some(ServerAction::Message { message, ack, from });
    }
    if at.skip(r#"{"action":"answer","ack":"#) {
        let ack = Some(at.value()?);
        let from = member(&mut at, r#","from":"#)?;
        let message = member(&mut at, r#","message":"#)?;
        let error = member(&mut at, r#","error":"#)?;
        return at.ends("}").then_some(ServerAction::Answer {
            ack,
            from,
            message,
            error: error.filter(|error| version > 1 && is_truthy(error)),
        });
    }
    if version == 1 {
        return None;
    }
    if at.skip(r#"{"action":"receipt","ref":"#) {
        let reference = at.value()?;
        let delivered = at.skip(r#","delivered":"#).then(|| at.value())??;
        let failed = at.skip(r#","failed":"#).then(|| at.value())??;
        return at.ends("}").then_some(ServerAction::Receipt {
            reference,
            delivered,
            failed,
        });
    }
    if at.skip(r#"{"action":"failed","ack":"#) {
        let ack = at.value()?;
        let dest = at.skip(r#","dest":"#).then(|| at.value())??;
        let code = at.skip(r#","code":"#).then(|| at.value())??;
        return at
            .ends("}")
            .then_some(ServerAction::Failed { ack, dest, code });
    }
    if at.skip(r#"{"action":"cancel","ack":"#) {
        let ack = at.value()?;
        return at.ends("}").then_some(ServerAction::Cancel { ack });
    }
    None
}

/// The value of an optional member.
#[allow(clippy::option_option)]
fn member<'a>(at: &mut Cursor<'a>, name: &str) -> Option<Option<&'a str>> {
    match at.skip(name) {
        true => at.value().map(Some),
        false => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_version_1_take_the_fast_path() {
        for text in [
            r#"{"action":"send","message":{"a":[1]},"dest":"x"}"#,
            r#"{"action":"send","message":null,"dest":["x","y"],"ack":"k"}"#,
            r#"{"action":"answer","ack":"k"}"#,
            r#"{"action":"answer","ack":"k","message":1,"from":"x"}"#,
            r#"{"action":"register","id":"x","token":"t"}"#,
        ] {
            assert!(client_action(text).is_some(), "{text}");
        }
        for text in [
            r#"{"action":"message","message":1}"#,
            r#"{"action":"message","message":1,"ack":"k","from":"x"}"#,
            r#"{"action":"answer","ack":"k","from":"x","message":1}"#,
        ] {
            assert!(server_action(text, 1).is_some(), "{text}");
        }
    }

    #[test]
    fn frames_of_version_2_take_the_fast_path() {
        for text in [
            r#"{"action":"register","id":"x","token":"t","protocol":2}"#,
            r#"{"action":"send","message":1,"dest":"x","ack":"k","ref":7,"answers":"all","timeout":50}"#,
            r#"{"action":"send","message":1,"dest":"x","ref":"r"}"#,
            r#"{"action":"answer","ack":"k","error":{"code":"c"},"from":"x"}"#,
            r#"{"action":"cancel","ack":"k"}"#,
        ] {
            assert!(client_action(text).is_some(), "{text}");
        }
        for text in [
            r#"{"action":"receipt","ref":7,"delivered":["x"],"failed":{}}"#,
            r#"{"action":"failed","ack":"k","dest":"x","code":"GONE"}"#,
            r#"{"action":"cancel","ack":"k"}"#,
        ] {
            assert!(server_action(text, 2).is_some(), "{text}");
            assert!(server_action(text, 1).is_none(), "{text}");
        }
    }

    #[test]
    fn incomplete_or_unusual_frames_do_not_take_the_fast_path() {
        for text in [
            r#"{"action":"send","message":1,"dest":"x","ack":"k","ref":7,"timeout":50}"#,
            r#"{"action":"register","id":"x","token":"t","protocol":2}"#,
        ] {
            for end in 0..text.len() {
                assert!(client_action(&text[..end]).is_none(), "{end}");
            }
        }
        for text in [
            r#"{"action":"send","message":1,"dest":"x"} "#,
            r#"{"action":"send","message":1,"dest":"x","message":2}"#,
            r#"{"action":"send","message":1,"ack":"k","dest":"x"}"#,
            r#"{"action":"send","message": 1,"dest":"x"}"#,
            r#"{"action":"send","message":01,"dest":"x"}"#,
            r#"{"action":"answer","ack":0}"#,
        ] {
            assert!(client_action(text).is_none(), "{text}");
        }
    }
}
