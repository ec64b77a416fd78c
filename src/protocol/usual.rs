//! The frames as nearly all peers write them: version 1, we ourselves, and whoever copied their
//! members in this order, without white space between them. `None`: it is another one, which says
//! nothing of what it is.

use super::{ClientAction, ServerAction, is_truthy, plain::Cursor};

pub(super) fn client_action(text: &str) -> Option<ClientAction<'_>> {
    let mut at = Cursor::new(text);
    if at.skip(r#"{"action":"send","message":"#) {
        let message = at.value()?;
        let dest = at.skip(r#","dest":"#).then(|| at.value())??;
        let ack = member(&mut at, r#","ack":"#)?;
        return at
            .ends("}")
            .then_some(ClientAction::Send { message, dest, ack });
    }
    if at.skip(r#"{"action":"answer","ack":"#) {
        let ack = at.value()?;
        let message = member(&mut at, r#","message":"#)?;
        member(&mut at, r#","from":"#)?;
        return (at.ends("}") && is_truthy(ack)).then_some(ClientAction::Answer { ack, message });
    }
    None
}

pub(super) fn server_action(text: &str) -> Option<ServerAction<'_>> {
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
        return at
            .ends("}")
            .then_some(ServerAction::Answer { ack, from, message });
    }
    None
}

/// The value of a member that need not be there.
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
    fn what_version_1_and_we_write_is_usual() {
        for text in [
            r#"{"action":"send","message":{"a":[1]},"dest":"x"}"#,
            r#"{"action":"send","message":null,"dest":["x","y"],"ack":"k"}"#,
            r#"{"action":"answer","ack":"k"}"#,
            r#"{"action":"answer","ack":"k","message":1,"from":"x"}"#,
        ] {
            assert!(client_action(text).is_some(), "{text}");
        }
        for text in [
            r#"{"action":"message","message":1}"#,
            r#"{"action":"message","message":1,"ack":"k","from":"x"}"#,
            r#"{"action":"answer","ack":"k","from":"x","message":1}"#,
        ] {
            assert!(server_action(text).is_some(), "{text}");
        }
    }

    #[test]
    fn what_only_begins_so_is_not() {
        let text = r#"{"action":"send","message":1,"dest":"x","ack":"k"}"#;
        for end in 0..text.len() {
            assert!(client_action(&text[..end]).is_none(), "{end}");
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
