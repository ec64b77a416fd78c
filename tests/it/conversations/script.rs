//! Reads `spec/conversations.json`.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Number of characters in `<long>`.
const LONG: usize = 12 << 20;

/// The members of an object, each as the JSON text that it is in the file.
pub(crate) struct Members(BTreeMap<String, Box<RawValue>>);

/// A conversation, with a server or a client.
pub(crate) struct Conversation {
    pub(crate) name: String,
    pub(crate) rules: Vec<String>,
    pub(crate) members: Members,
    pub(crate) steps: Vec<Members>,
}

/// The conversations with one side: `server` or `client`.
pub(crate) fn conversations(side: &str) -> Vec<Conversation> {
    let file = Members::parse(&read("spec/conversations.json"));
    file.list(side)
        .into_iter()
        .map(|members| Conversation {
            name: members.text("name").expect("a name"),
            rules: members.texts("rules"),
            steps: members.list("steps"),
            members,
        })
        .collect()
}

/// A file of the repository.
pub(crate) fn read(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap()
}

impl Members {
    fn parse(text: &str) -> Self {
        Self::read(text).unwrap()
    }

    /// The members of a text, if it is a JSON object.
    pub(crate) fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().map(Self)
    }

    /// A member's JSON text, as it is.
    pub(crate) fn raw(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|raw| raw.get())
    }

    /// A member's JSON text, without spaces.
    pub(crate) fn json(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|raw| compact(raw.get()))
    }

    /// A member that is a string.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.0.get(name)?.get()).ok()
    }

    /// A member that is a number; none if there is none, or null.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        serde_json::from_str(self.0.get(name)?.get()).unwrap()
    }

    /// The text of a message: a string stands for itself, an object for its own text.
    pub(crate) fn frame(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|raw| frame(raw))
    }

    /// A member that is a list of messages.
    pub(crate) fn frames(&self, name: &str) -> Option<Vec<String>> {
        let list: Vec<&RawValue> = serde_json::from_str(self.0.get(name)?.get()).unwrap();
        Some(list.into_iter().map(frame).collect())
    }

    /// A member of hexadecimal digits.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let digits = self.text(name)?;
        let pairs = digits.as_bytes().chunks(2);
        Some(
            pairs
                .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
                .collect(),
        )
    }

    /// A member that is a list of strings; empty if there is none.
    pub(crate) fn texts(&self, name: &str) -> Vec<String> {
        self.0
            .get(name)
            .map(|raw| serde_json::from_str(raw.get()).unwrap())
            .unwrap_or_default()
    }

    /// A member that is a list of objects.
    fn list(&self, name: &str) -> Vec<Self> {
        let list: Vec<&RawValue> = serde_json::from_str(self.0[name].get()).unwrap();
        list.into_iter().map(|raw| Self::parse(raw.get())).collect()
    }

    /// A member that is an object; empty if there is none.
    pub(crate) fn object(&self, name: &str) -> Self {
        Self::parse(self.0.get(name).map_or("{}", |raw| raw.get()))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl std::fmt::Display for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.0 {
            write!(f, "{name}: {} ", value.get())?;
        }
        Ok(())
    }
}

/// The text of a message, in which `<long>` stands for more than a system takes for who does not read.
fn frame(raw: &RawValue) -> String {
    let text = serde_json::from_str(raw.get()).unwrap_or_else(|_| compact(raw.get()));
    match text.contains("<long>") {
        true => text.replace("<long>", &"x".repeat(LONG)),
        false => text,
    }
}

/// JSON text without the spaces between its tokens.
pub(crate) fn compact(text: &str) -> String {
    let (mut in_string, mut escaped) = (false, false);
    text.chars()
        .filter(|&character| {
            let keep = in_string || !character.is_ascii_whitespace();
            in_string ^= character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            keep
        })
        .collect()
}
