//! A naive reading of JSON, as JavaScript has it: what the decoders of the protocol are held against.
//!
//! It builds the whole value, keeps strings in the UTF-16 that may hold lone surrogates, and
//! follows the grammar of RFC 8259 letter by letter. Slow, recursive, and short enough to be right.

/// A value, and the text that it was read from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Json<'a> {
    pub(super) raw: &'a str,
    pub(super) value: Value<'a>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(f64),
    /// UTF-16.
    String(Vec<u16>),
    Array(Vec<Json<'a>>),
    Object(Vec<(Vec<u16>, Json<'a>)>),
}

/// Arrays in arrays up to which a name is made of them; the decoders go no deeper.
const DEEPEST_NAME: usize = 8;

/// Reads a text that is JSON from its first to its last byte.
pub(super) fn read(text: &str) -> Option<Json<'_>> {
    let mut reader = Reader { text, at: 0 };
    reader.space();
    let json = reader.value()?;
    reader.space();
    (reader.at == text.len()).then_some(json)
}

impl<'a> Json<'a> {
    /// A member of an object: of those with this name the last.
    pub(super) fn member(&self, name: &str) -> Option<&Self> {
        let Value::Object(members) = &self.value else {
            return None;
        };
        let name: Vec<u16> = name.encode_utf16().collect();
        let found = members.iter().rfind(|(other, _)| *other == name);
        found.map(|(_, json)| json)
    }

    /// The names of an object's members, in their order.
    pub(super) fn names(&self) -> Vec<String> {
        match &self.value {
            Value::Object(members) => members
                .iter()
                .map(|(name, _)| String::from_utf16_lossy(name))
                .collect(),
            _ => Vec::new(),
        }
    }

    /// JavaScript's `Boolean(value)`.
    pub(super) fn is_truthy(&self) -> bool {
        match &self.value {
            Value::Null => false,
            Value::Bool(value) => *value,
            Value::Number(value) => *value != 0.0,
            Value::String(value) => !value.is_empty(),
            Value::Array(_) | Value::Object(_) => true,
        }
    }

    /// JavaScript's `String(value)`. None where no text is promised: of lone surrogates, and of
    /// arrays that are nested too deep.
    pub(super) fn name(&self) -> Option<String> {
        self.name_at(0)
    }

    fn name_at(&self, depth: usize) -> Option<String> {
        match &self.value {
            Value::Null => Some("null".into()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Number(value) => Some(number(*value)),
            Value::String(value) => String::from_utf16(value).ok(),
            Value::Object(_) => Some("[object Object]".into()),
            Value::Array(_) if depth == DEEPEST_NAME => None,
            Value::Array(items) => {
                let names = items.iter().map(|item| match item.value {
                    Value::Null => Some(String::new()),
                    _ => item.name_at(depth + 1),
                });
                Some(names.collect::<Option<Vec<_>>>()?.join(","))
            }
        }
    }
}

/// `Number::toString` of ECMAScript, for radix 10.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    if value < 0.0 {
        return format!("-{}", number(-value));
    }
    if value.is_infinite() {
        return "Infinity".into();
    }
    // The shortest digits that make this number, and where its point is.
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').expect("an exponent");
    let digits = mantissa.replace('.', "");
    let exponent: i32 = exponent.parse().expect("a number");
    let (count, point) = (digits.len() as i32, exponent + 1);
    if count <= point && point <= 21 {
        return digits + &"0".repeat((point - count) as usize);
    }
    if 0 < point && point <= 21 {
        let (whole, part) = digits.split_at(point as usize);
        return format!("{whole}.{part}");
    }
    if -6 < point && point <= 0 {
        return format!("0.{}{digits}", "0".repeat(-point as usize));
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    let (first, rest) = digits.split_at(1);
    let point = if rest.is_empty() { "" } else { "." };
    format!("{first}{point}{rest}e{sign}{}", exponent.abs())
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, reply: impl Fn(u8) -> bool) -> Option<u8> {
        let byte = self.peek().filter(|byte| reply(*byte))?;
        self.at += 1;
        Some(byte)
    }

    fn word(&mut self, word: &str) -> Option<()> {
        self.text[self.at..].starts_with(word).then(|| {
            self.at += word.len();
        })
    }

    fn space(&mut self) {
        while self.take(|byte| b" \t\n\r".contains(&byte)).is_some() {}
    }

    fn value(&mut self) -> Option<Json<'a>> {
        let start = self.at;
        let value = match self.peek()? {
            b'n' => self.word("null").map(|()| Value::Null),
            b't' => self.word("true").map(|()| Value::Bool(true)),
            b'f' => self.word("false").map(|()| Value::Bool(false)),
            b'"' => self.string().map(Value::String),
            b'[' => self.array(),
            b'{' => self.object(),
            _ => self.number(),
        }?;
        let raw = &self.text[start..self.at];
        Some(Json { raw, value })
    }

    fn array(&mut self) -> Option<Value<'a>> {
        let mut items = Vec::new();
        self.list(b'[', b']', |reader| {
            items.push(reader.value()?);
            Some(())
        })?;
        Some(Value::Array(items))
    }

    fn object(&mut self) -> Option<Value<'a>> {
        let mut members = Vec::new();
        self.list(b'{', b'}', |reader| {
            let name = reader.string()?;
            reader.space();
            reader.word(":")?;
            reader.space();
            members.push((name, reader.value()?));
            Some(())
        })?;
        Some(Value::Object(members))
    }

    fn list(
        &mut self,
        open: u8,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Option<()>,
    ) -> Option<()> {
        self.take(|byte| byte == open)?;
        self.space();
        if self.take(|byte| byte == close).is_some() {
            return Some(());
        }
        loop {
            self.space();
            item(self)?;
            self.space();
            match self.take(|_| true)? {
                b',' => {}
                byte => return (byte == close).then_some(()),
            }
        }
    }

    fn number(&mut self) -> Option<Value<'a>> {
        let start = self.at;
        let digit = |byte: u8| byte.is_ascii_digit();
        self.take(|byte| byte == b'-');
        match self.take(digit)? {
            b'0' => {}
            _ => while self.take(digit).is_some() {},
        }
        if self.take(|byte| byte == b'.').is_some() {
            self.take(digit)?;
            while self.take(digit).is_some() {}
        }
        if self.take(|byte| b"eE".contains(&byte)).is_some() {
            self.take(|byte| b"+-".contains(&byte));
            self.take(digit)?;
            while self.take(digit).is_some() {}
        }
        self.text[start..self.at].parse().ok().map(Value::Number)
    }

    fn string(&mut self) -> Option<Vec<u16>> {
        self.word("\"")?;
        let mut units = Vec::new();
        loop {
            let next = self.text[self.at..].chars().next()?;
            self.at += next.len_utf8();
            match next {
                '"' => return Some(units),
                '\\' => units.push(self.escape()?),
                '\0'..' ' => return None,
                _ => units.extend_from_slice(next.encode_utf16(&mut [0; 2])),
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let unit = match self.take(|_| true)? {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4)?;
                let all_hex = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
                self.at += 4;
                return all_hex.then(|| u16::from_str_radix(digits, 16).ok())?;
            }
            _ => return None,
        };
        Some(unit.into())
    }
}
